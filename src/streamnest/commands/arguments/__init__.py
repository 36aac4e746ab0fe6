"""Arguments and help page of each command, without the imports that its work needs."""
