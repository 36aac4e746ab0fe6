"""Quality against latency at a fixed budget: stages, results and plots of `streamnest frontier`."""
