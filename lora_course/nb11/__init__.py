"""What stands behind notebook 11."""
