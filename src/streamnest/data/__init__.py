"""Data: from Lhotse cuts to batches of clean and noisy audio."""
