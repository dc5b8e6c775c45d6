"""Read, validate, clean, split, cache; uploaded datasets."""
