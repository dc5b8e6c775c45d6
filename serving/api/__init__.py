"""The routes and their schemas."""
