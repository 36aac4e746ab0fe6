"""Command line, checks and folder of a training run."""
