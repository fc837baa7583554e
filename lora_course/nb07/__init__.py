"""What stands behind notebook 07."""
