"""Reading and writing files: atomically, and without executing anything in them."""
