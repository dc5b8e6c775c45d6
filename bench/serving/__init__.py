"""bench.serving: the predictor beside its peers, and the predictor under load for a long time."""
