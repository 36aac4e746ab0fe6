"""Which utterances make which batch, as a pure function of (seed, epoch, position)."""
