"""Search over candidates and their parameters, on training folds, for a number of trials.

Optuna proposes (Akiba et al., KDD 2019; its tree-structured Parzen estimator, seeded). The declared
candidates are scored before and are Optuna's first trials. The budget is trials, not seconds: every machine
tries the same. No function here is given held-out rows.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import optuna
import pandas as pd
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from catalog.spec import Candidate, Choice, ModelSpec, Space
from flows.errors import TrainingError
from flows.modeling.candidates import Scored, build

State = Literal["declared", "complete", "pruned"]
_CANDIDATE = "candidate"


@dataclass(frozen=True)
class Tried:
    """One point of the search: a candidate with the parameters that were tried, and what came of it.

    `state` is `declared` (before the search), `complete`, or `pruned` (its first folds were worse than the
    median of earlier trials; its other folds were not scored). Only declared and complete ones can be chosen.
    `seconds` is for people to read: nothing depends on it.
    """

    candidate: Candidate
    folds: tuple[Scored, ...]
    state: State
    seconds: float

    @property
    def mean(self) -> float:
        """The mean score of the folds that there are; not a number if there are none."""
        return float(np.mean([one.score for one in self.folds])) if self.folds else float("nan")


# A fold's score of a candidate, by the fold's number.
Score = Callable[[Candidate, int], Scored]
# Is told the number of trials so far, and the best of those that can be chosen.
Tell = Callable[[int, Tried], None]


def search(
    declared: Sequence[Tried],
    score: Score,
    *,
    trials: int,
    seed: int,
    tell: Tell = lambda *_: None,
) -> list[Tried]:
    """Return what was tried in so many `trials`, in order; nothing without trials or a space.

    `declared` are all candidates with their declared parameters, each scored on every fold. The same
    declarations, scores, trials and seed give the same list, but for its seconds.
    """
    candidates = {one.candidate.name: one.candidate for one in declared}
    if trials <= 0 or not any(one.search for one in candidates.values()):
        return []
    study, folds, tried = _study(declared, seed), len(declared[0].folds), list[Tried]()
    for count in range(1, trials + 1):
        trial = study.ask()
        candidate = _proposed(trial, candidates)
        start, scores = time.monotonic(), list[Scored]()
        state: State = "complete"
        for number in range(folds):
            scores.append(score(candidate, number))
            trial.report(scores[-1].score, number)
            if number + 1 < folds and trial.should_prune():
                state = "pruned"
                break
        done = Tried(candidate, tuple(scores), state, time.monotonic() - start)
        tried.append(done)
        if state == "complete" and np.isfinite(done.mean):
            study.tell(trial, done.mean)
        else:
            study.tell(trial, state=TrialState.PRUNED if state == "pruned" else TrialState.FAIL)
        tell(count, best([*declared, *tried]))
    return tried


def best(tried: Sequence[Tried], name: str | None = None) -> Tried:
    """Return what scored best of what can be chosen, of one candidate if it is named; the first of equals."""
    whole = [one for one in tried if one.state in ("declared", "complete") and np.isfinite(one.mean)]
    mine = [one for one in whole if name in (None, one.candidate.name)]
    return max(mine or list(tried), key=lambda one: one.mean)


def is_better(trial: Tried, declared: Tried) -> bool:
    """Whether a trial beats its declared candidate by more than a standard error of their paired folds.

    The best of several trials is lucky by about that much, and whatever replaces a declaration must earn it
    (the one-standard-error rule: Breiman et al., Classification and Regression Trees, 1984, section 3.4).
    """
    gains = np.array([t.score - d.score for t, d in zip(trial.folds, declared.folds, strict=True)])
    error = float(gains.std(ddof=1)) / np.sqrt(len(gains)) if len(gains) > 1 else 0.0
    return bool(gains.mean() > error)


def require_spaces(spec: ModelSpec) -> None:
    """Raise `TrainingError` for a parameter of a search that its estimator does not have."""
    for candidate in spec.candidates:
        for name, space in candidate.search.items():
            value = space.values[0] if isinstance(space, Choice) else space.low
            try:
                build(spec, candidate.model_copy(update={"params": {**candidate.params, name: value}}))
            except TrainingError as error:
                raise TrainingError(f"{error} It is named by `search`.") from error


def table(spec: ModelSpec, tried: Sequence[Tried]) -> pd.DataFrame:
    """Return one line for each trial: what was tried, how it ended, its score and what it took."""
    return pd.DataFrame(
        [
            {
                "trial": number,
                "candidate": one.candidate.name,
                "state": one.state,
                "folds": len(one.folds),
                f"cv_{spec.metric}": round(one.mean, 5),
                "seconds": round(one.seconds, 2),
                "params": ", ".join(f"{n}={one.candidate.params[n]}" for n in one.candidate.search),
            }
            for number, one in enumerate(tried)
        ]
    )


def _study(declared: Sequence[Tried], seed: int) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=10),
        # A fold is only compared with the same fold of others; the first few are given the chance to be odd.
        pruner=optuna.pruners.MedianPruner(n_startup_trials=5),
    )
    names = [one.candidate.name for one in declared if one.candidate.search]
    for one in declared:
        if one.candidate.search and np.isfinite(one.mean):
            spaces = one.candidate.search
            study.add_trial(
                create_trial(
                    params={
                        _CANDIDATE: one.candidate.name,
                        **{
                            _key(one.candidate, n): _inside(s, one.candidate.params[n])
                            for n, s in spaces.items()
                        },
                    },
                    distributions={
                        _CANDIDATE: CategoricalDistribution(names),
                        **{_key(one.candidate, n): _distribution(s) for n, s in spaces.items()},
                    },
                    value=one.mean,
                    intermediate_values=dict(enumerate(fold.score for fold in one.folds)),
                )
            )
    return study


def _proposed(trial: optuna.Trial, candidates: dict[str, Candidate]) -> Candidate:
    """Return the candidate that a trial proposes, with its parameters."""
    names = [one.name for one in candidates.values() if one.search]
    candidate = candidates[trial.suggest_categorical(_CANDIDATE, names)]
    params: dict[str, Any] = dict(candidate.params)
    for name, space in candidate.search.items():
        key = _key(candidate, name)
        if isinstance(space, Choice):
            params[name] = space.values[trial.suggest_categorical(key, list(range(len(space.values))))]
        elif space.kind == "int":
            params[name] = trial.suggest_int(key, space.low, space.high, log=space.log)
        else:
            params[name] = trial.suggest_float(key, space.low, space.high, log=space.log)
    return candidate.model_copy(update={"params": params})


def _key(candidate: Candidate, name: str) -> str:
    return f"{candidate.name}.{name}"


def _distribution(space: Space) -> BaseDistribution:
    if isinstance(space, Choice):
        return CategoricalDistribution(list(range(len(space.values))))
    if space.kind == "int":
        return IntDistribution(space.low, space.high, log=space.log)
    return FloatDistribution(space.low, space.high, log=space.log)


def _inside(space: Space, value: Any) -> Any:
    """Return a value as Optuna has it: of a choice, which one it is."""
    return space.values.index(value) if isinstance(space, Choice) else value
