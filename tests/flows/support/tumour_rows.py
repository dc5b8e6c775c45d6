"""The rows that tumours.py and groups.py learn from: scikit-learn's breast cancer data."""

from typing import Any

import numpy as np
import pandas as pd
from sklearn.datasets import load_breast_cancer

COLUMNS = {
    "mean radius": "radius",
    "mean texture": "texture",
    "mean smoothness": "smoothness",
    "mean concavity": "concavity",
}


def tumours() -> pd.DataFrame:
    """The table that scikit-learn brings, as another team would keep it."""
    bunch: Any = load_breast_cancer(as_frame=True)
    table = bunch.data[list(COLUMNS)].rename(columns=COLUMNS)
    return table.assign(diagnosis=np.where(bunch.target == 1, "benign", "malignant"))
