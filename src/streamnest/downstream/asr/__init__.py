"""Speech recognition with CTC and RNN-T."""
