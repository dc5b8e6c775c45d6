"""registry: stages, evidence, the served model format and the `greenroom` command line."""
