"""One module for each command of `streamnest`."""
