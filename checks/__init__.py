"""checks: the DeepChecks gate. DeepChecks runs in a process of its own (checks/worker)."""
