"""Command-line plumbing: text on terminals, log records, errors of users."""
