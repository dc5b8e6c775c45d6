"""Bucket, datasets."""
