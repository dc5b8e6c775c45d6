"""What runs inside MLflow's tracking server: the guarded registry store. Nothing outside imports it."""
