"""Follow Production: watch, verify, load, cache; pyfunc workers."""
