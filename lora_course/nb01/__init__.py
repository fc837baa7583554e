"""What stands behind notebook 01."""
