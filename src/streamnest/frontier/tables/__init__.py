"""Results of a frontier as `frontier.json`, `frontier.csv` and `frontier.md`."""
