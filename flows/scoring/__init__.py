"""Batch predictions, exactly once, on Dask."""
