"""The outcome of a training, and the file in which its process hands it on."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, Self

from registry.notify.people import notify

Result = Literal["promoted", "passed", "refused", "failed"]


@dataclass(frozen=True)
class TrainingOutcome:
    """A registered version and its verdict. `refusals` are the gate's reasons, or the server's.

    `low` and `high` are the ends of the score's 95 % interval, `baseline` is the score of a naive model.
    """

    model: str
    version: int
    winner: str
    metric: str
    score: float
    passed: bool
    stage: str
    refusals: tuple[str, ...] = ()
    baseline: float | None = None
    low: float | None = None
    high: float | None = None

    @property
    def scored(self) -> str:
        """The score with its interval, as people read it."""
        ends = "" if self.low is None or self.high is None else f" ({self.low:.3f} to {self.high:.3f})"
        return f"{self.metric} {self.score:.3f}{ends}"


@dataclass(frozen=True)
class TrainingResult:
    """How the training of one model ended: with an outcome, or with a problem."""

    model: str
    outcome: TrainingOutcome | None = None
    problem: str = ""

    @property
    def result(self) -> Result:
        """The end in one word. A version that passed and was to be promoted but was not is refused."""
        if self.outcome is None:
            return "failed"
        if self.outcome.refusals:
            return "refused"
        return "promoted" if self.outcome.stage == "Production" else "passed"

    @property
    def why(self) -> str:
        """The reasons of a refusal, or the problem; empty without either."""
        return "; ".join(self.outcome.refusals) if self.outcome else self.problem

    def write(self, path: Path) -> None:
        """Write it to a file, whole or not at all."""
        part = path.with_suffix(".part")
        part.write_text(json.dumps(asdict(self)), "utf-8")
        part.replace(path)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read what `write` wrote; raises `ValueError` or `OSError`."""
        content = json.loads(path.read_text("utf-8"))
        fields = content["outcome"]
        outcome = TrainingOutcome(**{**fields, "refusals": tuple(fields["refusals"])}) if fields else None
        return cls(content["model"], outcome, content["problem"])


def exit_code(trainings: list[TrainingResult]) -> int:
    """Return 0 if all went well, 1 if a model was refused, 2 if one could not be trained."""
    results = {training.result for training in trainings}
    return 2 if "failed" in results else int("refused" in results)


def notify_outcome(outcome: TrainingOutcome) -> None:
    """Notify people of a version that was refused, by the gate or the server, or promoted."""
    version = f"{outcome.model} version {outcome.version}"
    if outcome.refusals:
        notify("refused", f"Greenroom: {version} was refused", "\n".join(outcome.refusals))
    elif outcome.stage != "None":
        notify("promoted", f"Greenroom: {version} is in {outcome.stage}", f"{version} is in {outcome.stage}.")
