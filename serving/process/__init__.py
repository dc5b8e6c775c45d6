"""Connections, workers, memory."""
