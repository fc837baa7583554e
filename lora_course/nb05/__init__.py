"""What stands behind notebook 05."""
