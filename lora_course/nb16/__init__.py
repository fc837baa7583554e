"""What stands behind notebook 16."""
