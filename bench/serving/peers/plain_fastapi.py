"""What one writes in ten minutes: FastAPI, Pydantic, pandas, scikit-learn. Arguments: port, pickle.

The contract is the catalogue's own, so that both refuse the same.
"""

import pickle
import sys
from pathlib import Path

import pandas as pd
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

from catalog.spotify_tracks import TrackFeatures

app = FastAPI()
model = pickle.loads(Path(sys.argv[2]).read_bytes())  # noqa: S301 - bench.serving wrote it


class Answer(BaseModel):
    """The predicted class and the probability of each."""

    prediction: str
    probabilities: dict[str, float]


@app.post("/predict")
def predict(track: TrackFeatures) -> Answer:
    """Predict one track."""
    shares = model.predict_proba(pd.DataFrame([track.model_dump()]))[0]
    return Answer(
        prediction=model.classes_[shares.argmax()],
        probabilities=dict(zip(model.classes_, shares.tolist(), strict=True)),
    )


if __name__ == "__main__":
    uvicorn.run(
        app, host="127.0.0.1", port=int(sys.argv[1]), workers=1, server_header=False, access_log=False
    )
