"""How a declaration's columns become numbers that can be compared.

Training builds on it, and the gate measures distances in it, so that both mean the same by `near`.
"""

from sklearn.compose import ColumnTransformer
from sklearn.preprocessing import OneHotEncoder, PowerTransformer, StandardScaler

from catalog.spec import ModelSpec


def encoder(spec: ModelSpec) -> ColumnTransformer:
    """Return the unfitted encoder of a model's features.

    Codes become one-hot columns, skewed quantities go through a Yeo-Johnson power transform, the rest is
    standardised. Columns are named by position, since the served model gets a plain matrix.
    """
    position = {name: index for index, name in enumerate(spec.features)}
    plain = [name for name in spec.features if name not in {*spec.one_hot, *spec.skewed}]
    groups = [
        # Categories unseen in training become all zeros instead of an error in Production.
        ("one_hot", OneHotEncoder(handle_unknown="ignore", sparse_output=False), spec.one_hot),
        ("skewed", PowerTransformer(), spec.skewed),
        ("plain", StandardScaler(), plain),
    ]
    return ColumnTransformer([(n, t, [position[c] for c in cs]) for n, t, cs in groups if cs])
