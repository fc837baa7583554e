"""What stands behind notebook 00."""
