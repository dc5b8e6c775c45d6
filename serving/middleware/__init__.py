"""Keys, concurrency, access log, metrics, tracing, headers."""
