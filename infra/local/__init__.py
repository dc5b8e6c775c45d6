"""The local stack: every service as a plain process on loopback."""
