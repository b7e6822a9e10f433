"""Robustness certificates for randomized-smoothed classifiers."""
