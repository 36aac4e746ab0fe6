"""Quality against latency for one budget: what is trained, evaluated and drawn by `streamnest frontier`."""
