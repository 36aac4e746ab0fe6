"""Automatic speech recognition: CTC and RNN-T."""
