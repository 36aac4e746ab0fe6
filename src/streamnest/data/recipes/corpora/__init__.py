"""One module for each corpus or list format."""
