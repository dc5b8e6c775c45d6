"""One object per task: what classification, regression, clustering and similarity do each in its own way."""
