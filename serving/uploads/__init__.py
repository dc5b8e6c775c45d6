"""`POST /api/upload-dataset`: turns a CSV from outside into a dataset that meets its contract."""
