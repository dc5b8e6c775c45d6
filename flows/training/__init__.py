"""The flow `train`: tasks, publish (gate, log, register, sign), resume, parallel runs."""
