"""A trained model with all that led to it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from catalog.spec import ModelSpec
from checks.data.cleaning import Cleaning
from checks.data.splits import SplitRows
from flows.modeling.candidates import FittedCandidate
from flows.modeling.search import Trial
from flows.tasks.base import Agreement


@dataclass(frozen=True)
class ScoredCandidate:
    """A fitted candidate with its metrics on training and on held-out rows."""

    fitted: FittedCandidate
    train: dict[str, float]
    test: dict[str, float]


@dataclass(frozen=True)
class TrainedModel:
    """A chosen candidate, its ONNX file, and what it was chosen from.

    `content` is the ONNX file and `agreement` how it agrees with the fitted pipeline. A submitted model has
    its `origin` and more `tags`; `declaration` is its declaration as JSON, where no catalogue has one.
    """

    spec: ModelSpec
    cleaning: Cleaning
    data: SplitRows
    winner: FittedCandidate
    scored: Sequence[ScoredCandidate]
    trials: Sequence[Trial]
    content: bytes
    agreement: Agreement
    origin: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    declaration: str = ""
