"""What stands behind notebook 04."""
