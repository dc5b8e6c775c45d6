"""Attacks on a running stack, each with the outcome that it must have (docs/promotion.md has the table)."""
