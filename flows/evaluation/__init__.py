"""Metrics, intervals, baselines, plots, model card."""
