"""What stands behind notebook 09."""
