"""What stands behind notebook 12."""
