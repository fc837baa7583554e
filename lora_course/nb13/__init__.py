"""What stands behind notebook 13."""
