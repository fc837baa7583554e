"""What stands behind notebook 06."""
