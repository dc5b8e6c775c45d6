"""The served model format: one ONNX file with the whole pipeline, which describes itself.

The graph has one input, float32 of shape (rows, features). Its metadata names the features in order
(`greenroom.features`), the task (`greenroom.task`) and, for a classifier, the classes in the order of the
probabilities (`greenroom.classes`); for a clustering these are the clusters' names, in the order of their
numbers. It may hold some training rows that a prediction can be explained against (`greenroom.background`),
and a similarity's holds what is found (`greenroom.items`). All are JSON. Nothing is unpickled to read it.
"""

import json
from typing import Self, cast

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, model_validator

from catalog.spec import MAX_BACKGROUND, Task
from catalog.tasks import Answers, task_spec
from registry.digests import digest
from registry.errors import ModelFormatError
from registry.model_format.similarity_index import SimilarityIndex

FEATURES_KEY = "greenroom.features"
TASK_KEY = "greenroom.task"
CLASSES_KEY = "greenroom.classes"
BACKGROUND_KEY = "greenroom.background"
ITEMS_KEY = "greenroom.items"
# Rows times things whose distances are in memory at once: 16 MB.
_DISTANCES = 4_000_000

Rows = npt.NDArray[np.float32]


class Description(BaseModel):
    """What the file's metadata says."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: Task
    features: tuple[str, ...]
    classes: tuple[str, ...] = ()
    background: tuple[tuple[FiniteFloat, ...], ...] = Field(
        default=(),
        max_length=MAX_BACKGROUND,
        repr=False,
        description="Training rows, in the order of the features; none when the model cannot be explained.",
    )
    items: SimilarityIndex | None = Field(
        default=None, description="What a similarity finds; None for other tasks."
    )

    @model_validator(mode="after")
    def _rows_fit(self) -> Self:
        if (self.answers == "neighbours") != (self.items is not None):
            raise ValueError("a similarity, and nothing else, has things that it finds")
        if self.items and self.items.rows.shape[1] != len(self.features):
            raise ValueError(f"a thing has other than {len(self.features)} values")
        if self.answers == "clusters" and len(set(self.classes)) < len(self.classes):
            raise ValueError("two clusters have the same name")
        if any(len(row) != len(self.features) for row in self.background):
            raise ValueError(f"a background row has other than {len(self.features)} values")
        if not np.isfinite(self.background_rows()).all():
            raise ValueError("a background row has a value that float32 cannot hold")
        return self

    @property
    def answers(self) -> Answers:
        """What the model answers for a row."""
        return task_spec(self.task).answers

    def background_rows(self) -> Rows:
        """Return the background as float32 of shape (rows, features)."""
        with np.errstate(over="ignore"):
            return np.array(self.background, dtype=np.float32).reshape(-1, len(self.features))

    def to_metadata(self) -> dict[str, str]:
        """Return the ONNX metadata properties that say the same."""
        properties = {
            TASK_KEY: json.dumps(self.task),
            FEATURES_KEY: json.dumps(self.features),
            CLASSES_KEY: json.dumps(self.classes),
        }
        if self.background:
            properties[BACKGROUND_KEY] = json.dumps(self.background)
        if self.items:
            properties[ITEMS_KEY] = self.items.model_dump_json()
        return properties


class OnnxModel:
    """A loaded model. `predict` may be called from several threads at once."""

    def __init__(self, content: bytes, *, threads: int = 1) -> None:
        """Load the bytes of an ONNX file.

        `threads` is how many threads one call may use; one is fastest for a few rows.
        Raises `ModelFormatError` when the bytes are not a model in the served format.
        """
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's exceptions have no common base
            raise ModelFormatError(f"the file is not a readable ONNX model: {error}") from error
        self.digest = digest(content)
        self.description = _describe(self._session)
        self.outputs = tuple(str(output.name) for output in self._session.get_outputs())
        self._input = self._checked_input()
        self._check_outputs()

    def _checked_input(self) -> str:
        width = len(self.description.features)
        inputs = self._session.get_inputs()
        # A dimension is a number, or None or a name when it is free.
        if [(i.type, len(i.shape), i.shape[-1:]) for i in inputs] != [("tensor(float)", 2, [width])]:
            raise ModelFormatError(
                f"the ONNX graph must have one float32 input of shape (rows, {width}); "
                f"it has {[(i.type, i.shape) for i in inputs]}"
            )
        return str(inputs[0].name)

    def _check_outputs(self) -> None:
        answers, classes = self.description.answers, self.description.classes
        outputs = [(output.type, output.shape) for output in self._session.get_outputs()]
        if len(outputs) != (2 if answers in ("classes", "neighbours") else 1):
            raise ModelFormatError(
                f"the ONNX graph of a {self.description.task} model has outputs {self.outputs}"
            )
        if answers == "classes":
            _check_classifier(classes, *outputs[1])
        elif answers == "clusters" and (outputs[0][0] != "tensor(int64)" or not classes):
            raise ModelFormatError(
                "the ONNX graph of a clustering must give int64 numbers of clusters, and its file name these "
                f"(metadata {CLASSES_KEY!r}); it gives {outputs[0]} and names {classes}"
            )
        elif answers == "neighbours" and [kind for kind, _ in outputs] != ["tensor(int64)", "tensor(float)"]:
            raise ModelFormatError(
                "the ONNX graph of a similarity must give int64 places in its index and float32 distances; "
                f"it gives {outputs}"
            )

    def predict(self, rows: Rows) -> tuple[npt.NDArray[np.generic], npt.NDArray[np.float32] | None]:
        """Return the predictions for `rows`, float32 of shape (n, features in the model's order).

        A classifier gives n labels and their probabilities, shape (n, classes), each row summing to 1;
        a regression gives n numbers and None; a clustering n numbers of clusters and None. A similarity gives
        the places of neighbours in its items, int64 of shape (n, neighbours), nearest first, and how far they
        are; a thing of the index is its own nearest.
        """
        if (items := self.description.items) is not None:
            return self._nearest(rows, max(1, _DISTANCES // len(items.ids)))
        results = self._session.run(None, {self._input: rows})
        if self.description.answers == "classes":
            return np.asarray(results[0]), cast(npt.NDArray[np.float32], results[1])
        return np.asarray(results[0]).reshape(-1), None

    def _nearest(self, rows: Rows, at_once: int) -> tuple[npt.NDArray[np.generic], npt.NDArray[np.float32]]:
        parts = [
            self._session.run(None, {self._input: rows[first : first + at_once]})
            for first in range(0, max(1, len(rows)), at_once)
        ]
        places, distances = zip(*parts, strict=True)
        return np.concatenate(places), np.concatenate(distances)


def _check_classifier(classes: tuple[str, ...], kind: str, shape: list[object]) -> None:
    if not classes:
        raise ModelFormatError(f"the ONNX file does not name its classes (metadata {CLASSES_KEY!r})")
    # skl2onnx puts the probabilities into dictionaries (ZipMap) unless told not to.
    fixed = shape[-1] if shape and isinstance(shape[-1], int) else len(classes)
    if kind != "tensor(float)" or fixed != len(classes):
        raise ModelFormatError(
            f"the ONNX graph must give float32 probabilities of shape (rows, {len(classes)}); "
            f"it gives {kind} {shape}. Convert without ZipMap."
        )


def _describe(session: ort.InferenceSession) -> Description:
    metadata = session.get_modelmeta().custom_metadata_map
    try:
        return Description(
            task=json.loads(metadata[TASK_KEY]),
            features=json.loads(metadata[FEATURES_KEY]),
            classes=json.loads(metadata[CLASSES_KEY]),
            background=json.loads(metadata.get(BACKGROUND_KEY, "[]")),
            items=json.loads(metadata.get(ITEMS_KEY, "null")),
        )
    except (KeyError, json.JSONDecodeError, ValidationError) as error:
        raise ModelFormatError(
            f"the ONNX file does not say which features it reads (metadata {FEATURES_KEY!r}), or its "
            f"{BACKGROUND_KEY!r} or {ITEMS_KEY!r} does not fit them: {error}"
        ) from error
