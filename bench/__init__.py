"""bench: what is measured, and how; results go to docs/benchmarks.md."""
