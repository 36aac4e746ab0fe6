"""What encoders are good for: tasks that learn from labels, streaming from the first day."""
