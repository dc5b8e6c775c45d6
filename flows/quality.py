"""Steps of a training about how good its model is: search, calibration, scores, and the model card."""

import time
from typing import Any

import mlflow
from prefect import get_run_logger, task

from catalog.spec import Candidate, ModelSpec
from flows import card, models, progress, scores, search, tracking
from flows.errors import TrainingError
from flows.retrying import BOUNDED, COMPUTING
from flows.settings import FlowSettings
from flows.steps import Rows, step

CARD_ARTIFACT = "model-card.md"


@task(name="search", **COMPUTING)
def search_further(
    spec: ModelSpec, fitted: list[tuple[models.Fitted, float]], train: Rows, folds: Any
) -> tuple[list[tuple[models.Fitted, float]], list[search.Tried]]:
    """Search around the declared candidates for the declared number of trials, on training folds alone.

    Returns each candidate with the best parameters there are now, and everything that was tried, the declared
    ones first. A candidate keeps its declared parameters unless a trial is better beyond the folds' noise.
    """
    search.require_spaces(spec)
    trials = search_trials(spec)
    declared = [
        search.Tried(one.candidate, one.folds, "declared", took * len(one.folds) / (len(one.folds) + 1))
        for one, took in fitted
    ]
    if trials == 0 or not any(candidate.search for candidate in spec.candidates):
        return fitted, declared

    def score(candidate: Candidate, number: int) -> models.Scored:
        try:
            return models.score_fold(spec, candidate, train.features, train.target, folds[number])
        except ValueError as error:
            raise TrainingError(
                f"{spec.name}: the candidate {candidate.name} cannot be fitted with {candidate.params}, "
                f"which its `search` allows: {error}. Make that space narrower."
            ) from error

    with step(spec, "search") as say:
        log = get_run_logger()
        with progress.budget(f"{spec.name} search", trials, log.info) as advance:
            tried = search.search(
                declared,
                score,
                trials=trials,
                seed=spec.split.seed,
                tell=lambda count, top: advance(
                    count, f"best {spec.metric} {top.mean:.3f} ({top.candidate.name})"
                ),
            )
        better = []
        for (one, took), start in zip(fitted, declared, strict=True):
            top = search.best([*declared, *tried], one.candidate.name)
            if top.state == "declared" or not search.is_better(top, start):
                better.append((one, took))
                continue
            began = time.monotonic()
            whole = models.fit_whole(spec, top.candidate, train.features, train.target, top.folds)
            better.append((whole, top.seconds + time.monotonic() - began))
            say(f"{whole.candidate.name}: {spec.metric} {one.cv_mean:.3f} to {whole.cv_mean:.3f}")
        complete = sum(one.state == "complete" for one in tried)
        say(f"{len(tried)} trials, {complete} of them on all folds")
    return better, [*declared, *tried]


def search_trials(spec: ModelSpec) -> int:
    """Return how many trials a search makes: what the declaration says, unless a setting says otherwise."""
    chosen = FlowSettings().search_trials
    return spec.search_trials if chosen is None else chosen


@task(**COMPUTING)
def calibrate(spec: ModelSpec, winner: models.Fitted, train: Rows) -> models.Fitted:
    """Calibrate a classifier's probabilities, if training folds say that it helps."""
    if spec.task != "classification":
        return winner
    with step(spec, "calibrate") as say:
        done = models.calibrate(spec, winner, train.features, train.target)
        if (found := done.calibration) is not None:
            if found.temperature is not None:
                say(f"temperature {found.temperature:.3f}")
                say(f"log loss on folds {found.before['log_loss']:.3f} to {found.after['log_loss']:.3f}")
                say(f"ECE {found.before['ece']:.3f} to {found.after['ece']:.3f}")
            else:
                say(f"left as it is: {found.why}")
    return done


@task(**COMPUTING)
def measure(spec: ModelSpec, winner: models.Fitted, train: Rows, test: Rows) -> scores.Measured:
    """Score the winner on held-out rows with an interval, beside a naive baseline and a default forest."""
    with step(spec, "measure") as say:
        found = scores.measure(
            spec,
            winner.pipeline,
            (train.features, train.target),
            (test.features, test.target),
            test.groups,
        )
        say(f"held-out {found.metric} {found.headline}")
        say(f"{found.baseline_name} {found.baseline}")
        if found.over_forest is not None:
            say(f"better than a default forest by {found.over_forest}")
    return found


@task(name="card", **BOUNDED)
def write_card(facts: card.Facts) -> str:
    """Log the model card and all trials to the active run; return the card's summary, for the version."""
    with step(facts.spec, "card") as say:
        summary = card.summary(facts)
        mlflow.log_text(card.card(facts), CARD_ARTIFACT)
        mlflow.log_text(search.table(facts.spec, facts.tried).to_csv(index=False), "search/trials.csv")
        told = f"The whole model card is among the artifacts, as `{CARD_ARTIFACT}`."
        mlflow.set_tag("mlflow.note.content", f"{summary}\n{told}\n\n{tracking.note(facts.verdict)}")
        say(f"{CARD_ARTIFACT}, {len(facts.tried)} trials")
    return summary
