"""Error rates of the downstream tasks."""
