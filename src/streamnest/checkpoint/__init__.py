"""Loading, resuming, transferring and sharing of checkpoints."""
