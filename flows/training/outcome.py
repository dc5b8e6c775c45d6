"""What a training came to, as a process tells it to the one that started it."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, Self

Result = Literal["promoted", "passed", "refused", "failed"]


@dataclass(frozen=True)
class Outcome:
    """What a training came to. `refusals` are the gate's reasons, or the server's for not promoting it.

    `low` and `high` are the ends of the score's 95 % interval, `baseline` is what a naive model scores.
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
class Ended:
    """How the training of one model ended: with an outcome, or with what went wrong."""

    model: str
    outcome: Outcome | None = None
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
        """What was wrong, where anything was."""
        return "; ".join(self.outcome.refusals) if self.outcome else self.problem

    def write(self, path: Path) -> None:
        """Write it to a file, whole or not at all."""
        part = path.with_suffix(".part")
        part.write_text(json.dumps(asdict(self)), "utf-8")
        part.replace(path)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read what `write` wrote; raises `ValueError` or `OSError`."""
        told = json.loads(path.read_text("utf-8"))
        said = told["outcome"]
        outcome = Outcome(**{**said, "refusals": tuple(said["refusals"])}) if said else None
        return cls(told["model"], outcome, told["problem"])


def exit_code(ended: list[Ended]) -> int:
    """Return 0 if all went well, 1 if a model was refused, 2 if one could not be trained."""
    results = {one.result for one in ended}
    return 2 if "failed" in results else int("refused" in results)
