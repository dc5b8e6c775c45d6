"""Greenroom's own checks."""
