"""What stands behind notebook 02."""
