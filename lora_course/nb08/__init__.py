"""What stands behind notebook 08."""
