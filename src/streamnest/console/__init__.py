"""Command lines: text on terminals, log records, errors of users."""
