"""Drift, feedback, retraining."""
