"""One module per model; each defines `MODEL`, a `catalog.spec.ModelSpec`. Adding a model is adding a file."""
