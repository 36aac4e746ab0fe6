"""Linear probes of frozen layers, and statistics of codes."""
