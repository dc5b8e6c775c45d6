"""`POST /api/upload-dataset`: from a CSV that anyone may have made to rows that a training can trust."""
