"""BentoML's service with adaptive batching; the file of the model is named by BENCH_MODEL."""

import os
import pickle
from pathlib import Path

import bentoml
import numpy as np


@bentoml.service(
    workers=1, traffic={"timeout": 60}, logging={"access": {"enabled": False}}, metrics={"enabled": True}
)
class Genre:
    """The forest."""

    def __init__(self) -> None:
        self.model = pickle.loads(Path(os.environ["BENCH_MODEL"]).read_bytes())  # noqa: S301

    # 60 s as the most a request may take: at BentoML's smaller ones it sheds load, which is no number.
    @bentoml.api(batchable=True, batch_dim=0, max_batch_size=64, max_latency_ms=60_000)
    def predict(self, rows: np.ndarray) -> list[str]:
        """Predict several requests' rows at once."""
        return self.model.predict(rows).tolist()
