"""Quality against latency for one budget: what is trained, evaluated and drawn by `scripts/frontier.py`."""
