"""Search over candidates and their parameters, on training folds, for a number of trials.

Optuna proposes (Akiba et al., KDD 2019; its tree-structured Parzen estimator, seeded). The declared
candidates are scored before and are Optuna's first trials. The budget is trials, not seconds: every machine
tries the same. No function here is given held-out rows.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import optuna
import pandas as pd
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from catalog.spec import Candidate, Choice, ModelSpec, Space
from checks.data.splits import Folds, Rows
from flows.errors import TrainingError
from flows.modeling.candidates import FittedCandidate, FoldScore, build, fit_whole, score_fold

State = Literal["declared", "complete", "pruned"]
_CANDIDATE = "candidate"


@dataclass(frozen=True)
class Trial:
    """One point of the search: a candidate with the parameters that were tried, and its scores.

    `state` is `declared` (before the search), `complete`, or `pruned` (its first folds were worse than the
    median of earlier trials; its other folds were not scored). Only declared and complete ones can be chosen.
    `seconds` is for people to read: nothing depends on it.
    """

    candidate: Candidate
    folds: tuple[FoldScore, ...]
    state: State
    seconds: float

    @property
    def mean(self) -> float:
        """The mean score of the scored folds; not a number if there are none."""
        return float(np.mean([fold.score for fold in self.folds])) if self.folds else float("nan")


# A fold's score of a candidate, by the fold's number.
Score = Callable[[Candidate, int], FoldScore]
# Is called with the number of trials so far, and the best of those that can be chosen.
Notify = Callable[[int, Trial], None]


def declared_trials(fitted: Sequence[FittedCandidate]) -> list[Trial]:
    """Return the trials that the declared parameters are; the seconds are those of a share of the fits."""
    return [
        Trial(
            candidate.candidate,
            candidate.folds,
            "declared",
            candidate.seconds * len(candidate.folds) / (len(candidate.folds) + 1),
        )
        for candidate in fitted
    ]


def refine(
    spec: ModelSpec,
    fitted: list[FittedCandidate],
    train: Rows,
    folds: Folds,
    *,
    trials: int,
    notify: Notify = lambda *_: None,
) -> tuple[list[FittedCandidate], list[Trial]]:
    """Search around the declared candidates on training folds alone.

    Returns each candidate with the best parameters there are now, and all trials, the declared ones first. A
    candidate keeps its declared parameters unless a trial is better beyond the folds' noise. Raises
    `TrainingError` for a space with a value that the estimator refuses, or of a parameter that it lacks.
    """
    require_spaces(spec)

    def score(candidate: Candidate, number: int) -> FoldScore:
        try:
            return score_fold(spec, candidate, train, folds[number])
        except ValueError as error:
            raise TrainingError(
                f"{spec.name}: the candidate {candidate.name} cannot be fitted with {candidate.params}, "
                f"which its `search` allows: {error}. Make that space narrower."
            ) from error

    declared = declared_trials(fitted)
    if trials == 0 or not any(candidate.search for candidate in spec.candidates):
        return fitted, declared
    searched = [*declared, *search(declared, score, trials=trials, seed=spec.split.seed, notify=notify)]
    refined = []
    for candidate, start in zip(fitted, declared, strict=True):
        best = best_trial(searched, candidate.candidate.name)
        if best.state == "declared" or not is_better(best, start):
            refined.append(candidate)
            continue
        whole = fit_whole(spec, best.candidate, train, best.folds)
        refined.append(replace(whole, seconds=best.seconds + whole.seconds))
    return refined, searched


def search(
    declared: Sequence[Trial],
    score: Score,
    *,
    trials: int,
    seed: int,
    notify: Notify = lambda *_: None,
) -> list[Trial]:
    """Return so many `trials`, in order; none without a search space.

    `declared` are all candidates with their declared parameters, each scored on every fold. The same
    declarations, scores, trials and seed give the same list, but for its seconds.
    """
    candidates = {trial.candidate.name: trial.candidate for trial in declared}
    if trials <= 0 or not any(candidate.search for candidate in candidates.values()):
        return []
    study, folds, searched = _study(declared, seed), len(declared[0].folds), list[Trial]()
    for count in range(1, trials + 1):
        proposal = study.ask()
        candidate = _proposed(proposal, candidates)
        start, scores = time.monotonic(), list[FoldScore]()
        state: State = "complete"
        for number in range(folds):
            scores.append(score(candidate, number))
            proposal.report(scores[-1].score, number)
            if number + 1 < folds and proposal.should_prune():
                state = "pruned"
                break
        trial = Trial(candidate, tuple(scores), state, time.monotonic() - start)
        searched.append(trial)
        if state == "complete" and np.isfinite(trial.mean):
            study.tell(proposal, trial.mean)
        else:
            study.tell(proposal, state=TrialState.PRUNED if state == "pruned" else TrialState.FAIL)
        notify(count, best_trial([*declared, *searched]))
    return searched


def best_trial(trials: Sequence[Trial], name: str | None = None) -> Trial:
    """Return the best trial that can be chosen, of one candidate if it is named; the first of equals."""
    complete = [t for t in trials if t.state in ("declared", "complete") and np.isfinite(t.mean)]
    eligible = [trial for trial in complete if name in (None, trial.candidate.name)]
    return max(eligible or list(trials), key=lambda trial: trial.mean)


def is_better(trial: Trial, declared: Trial) -> bool:
    """Whether a trial beats its declared candidate by more than a standard error of their paired folds.

    The best of several trials is lucky by about that much, so a trial must be better by more to replace it
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


def table(spec: ModelSpec, trials: Sequence[Trial]) -> pd.DataFrame:
    """Return one line for each trial: its candidate, state, score, seconds and parameters."""
    return pd.DataFrame(
        [
            {
                "trial": number,
                "candidate": trial.candidate.name,
                "state": trial.state,
                "folds": len(trial.folds),
                f"cv_{spec.metric}": round(trial.mean, 5),
                "seconds": round(trial.seconds, 2),
                "params": ", ".join(f"{n}={trial.candidate.params[n]}" for n in trial.candidate.search),
            }
            for number, trial in enumerate(trials)
        ]
    )


def _study(declared: Sequence[Trial], seed: int) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=10),
        # A fold is compared with the same fold of other trials; the first five trials are never pruned.
        pruner=optuna.pruners.MedianPruner(n_startup_trials=5),
    )
    searched = [trial for trial in declared if trial.candidate.search]
    names = [trial.candidate.name for trial in searched]
    for trial in searched:
        if not np.isfinite(trial.mean):
            continue
        candidate, params, distributions = trial.candidate, dict[str, Any](), dict[str, BaseDistribution]()
        for name, space in candidate.search.items():
            key, value = _key(candidate, name), candidate.params[name]
            # Optuna has a choice by its place.
            params[key] = space.values.index(value) if isinstance(space, Choice) else value
            distributions[key] = _distribution(space)
        study.add_trial(
            create_trial(
                params={_CANDIDATE: candidate.name, **params},
                distributions={_CANDIDATE: CategoricalDistribution(names), **distributions},
                value=trial.mean,
                intermediate_values=dict(enumerate(fold.score for fold in trial.folds)),
            )
        )
    return study


def _proposed(proposal: optuna.Trial, candidates: dict[str, Candidate]) -> Candidate:
    """Return the candidate that Optuna proposes, with its parameters."""
    names = [candidate.name for candidate in candidates.values() if candidate.search]
    candidate = candidates[proposal.suggest_categorical(_CANDIDATE, names)]
    params: dict[str, Any] = dict(candidate.params)
    for name, space in candidate.search.items():
        key = _key(candidate, name)
        if isinstance(space, Choice):
            params[name] = space.values[proposal.suggest_categorical(key, list(range(len(space.values))))]
        elif space.kind == "int":
            params[name] = proposal.suggest_int(key, space.low, space.high, log=space.log)
        else:
            params[name] = proposal.suggest_float(key, space.low, space.high, log=space.log)
    return candidate.model_copy(update={"params": params})


def _key(candidate: Candidate, name: str) -> str:
    return f"{candidate.name}.{name}"


def _distribution(space: Space) -> BaseDistribution:
    if isinstance(space, Choice):
        return CategoricalDistribution(list(range(len(space.values))))
    if space.kind == "int":
        return IntDistribution(space.low, space.high, log=space.log)
    return FloatDistribution(space.low, space.high, log=space.log)
