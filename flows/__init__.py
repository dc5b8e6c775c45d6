"""flows: Prefect flows that train models and hand them to the gate."""
