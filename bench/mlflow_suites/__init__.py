"""MLflow's own test suites against the guard: what a client of plain MLflow would notice."""
