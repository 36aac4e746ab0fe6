"""What runs over several processes and machines need beyond Lightning."""
