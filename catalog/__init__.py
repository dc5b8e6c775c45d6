"""catalog: which models exist, and the contract of the data each one reads."""
