"""bench.serving: the predictor beside its peers, and the predictor for a long time."""
