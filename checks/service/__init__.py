"""The gate as a process of its own, which alone reads the signing key and judges versions by number."""
