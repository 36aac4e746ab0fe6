"""Steps around the training of a run: its command line, checks and folder."""
