"""checks: the DeepChecks gate. DeepChecks itself runs in its own environment and process, see checks/worker."""
