"""The rows that a declaration names, from its source to the split: the same for whoever reads them."""

from catalog.spec import ModelSpec
from checks.data import sources, splits, validation
from checks.data.cleaning import clean
from checks.data.splits import SplitRows


def load_rows(spec: ModelSpec) -> SplitRows:
    """Return the training and held-out rows of a declaration: read, validated, cleaned and split.

    The same source and declaration always give the same rows. Raises `DataError`.
    """
    table = sources.open_table(spec.dataset)
    valid, _ = validation.validate(table, spec.dataset)
    kept, _ = clean(valid, spec, read=len(table))
    return splits.split_rows(kept, spec)
