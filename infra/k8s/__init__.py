"""Kubernetes: Kustomize base and overlays, and what holds them against schemas and house rules."""
