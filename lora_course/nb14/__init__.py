"""What stands behind notebook 14."""
