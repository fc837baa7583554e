"""What stands behind notebook 10."""
