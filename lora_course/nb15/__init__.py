"""What stands behind notebook 15."""
