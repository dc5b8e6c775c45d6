"""Verdict, signed attestation, keys, promotion rules."""
