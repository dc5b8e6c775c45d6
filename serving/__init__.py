"""serving: the predictor: a FastAPI service over the Production version of each model."""
