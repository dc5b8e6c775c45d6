"""bench: benchmarks; their results are in docs/benchmarks.md."""
