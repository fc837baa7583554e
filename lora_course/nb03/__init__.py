"""What stands behind notebook 03."""
