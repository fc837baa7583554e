"""What stands behind notebook 17."""
