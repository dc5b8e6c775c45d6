"""What a way to attack is: who tries what, and the outcome that it must have."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from bench.attack.target import Answer, Target

Outcome = Literal["prevented", "detected"]
PREVENTED: Outcome = "prevented"
DETECTED: Outcome = "detected"
# Who tells of what cannot be prevented: `greenroom verify`, a row of the audit, the predictor's own check of
# signature and bytes, the server at the next transition.
Detector = Literal["", "verify", "audit", "predictor", "transition"]


@dataclass(frozen=True)
class Attempt:
    """What came of a way: the answers, and the model that it was tried on if that is not the stand's own.

    `told` is what the detector said, where the way itself had to ask before it took its harm back.
    """

    answers: tuple[Answer, ...]
    model: str = ""
    version: int = 1
    told: tuple[str, ...] | None = None


Act = Callable[[Target], Answer | Attempt]


@dataclass(frozen=True)
class Way:
    """One way. Its id is `kind/account/name`.

    `prevented`: each answer is a refusal (a redirection, an error, SQL's error), and nothing changed; `harmless`
    allows an answer of success that changes nothing. `detected`: `by` tells of it; if nothing
    changed at all, it counts as prevented.
    """

    kind: str
    account: str
    name: str
    act: Act = field(repr=False)
    outcome: Outcome = PREVENTED
    by: Detector = ""
    harmless: bool = False

    @property
    def id(self) -> str:
        """The way's name among all."""
        return f"{self.kind}/{self.account}/{self.name}"


@dataclass(frozen=True)
class Kind:
    """Ways of one sort. `whole` ones need a stack of their own, with a gate and a model that it judged."""

    name: str
    about: str
    ways: Callable[[], Iterator[Way]] = field(repr=False)
    whole: bool = False


# Makes the body of a request from the names that the target has.
Body = Callable[[Target], Any]


def http(
    account: str,
    method: str,
    path: str | Callable[[Target], str],
    body: Body | None = None,
    headers: dict[str, str] | None = None,
) -> Act:
    """Return an act that sends one request to the tracking server, as an account."""

    def act(target: Target) -> Answer:
        where = path if isinstance(path, str) else path(target)
        return target.mlflow(account, method, where, body(target) if body else None, headers)

    return act
