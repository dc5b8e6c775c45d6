"""Plots and tables that a data scientist looks at first. Drawn without pyplot: it is not thread-safe."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from sklearn.inspection import permutation_importance
from sklearn.metrics import get_scorer
from sklearn.pipeline import Pipeline

from catalog.spec import ModelSpec
from checks.data.splits import Folds, Rows
from flows.modeling import candidates
from flows.modeling.trained_model import TrainedModel
from flows.tasks.base import SupervisedTask, required
from flows.tasks.registry import task_of

_IMPORTANCE_ROWS = 500
# Shares of the training rows that a learning curve is fitted on. All of them were fitted already.
_SHARES = (0.2, 0.5)


def draw(model: TrainedModel) -> Iterator[tuple[str, Any]]:
    """Yield the plots and tables of a model, each with its path among the run's artifacts.

    Figures have paths that end with .png, tables with .csv, dictionaries with .json. A submitted model has
    no learning curve.
    """
    spec, winner, train, test = model.spec, model.winner, model.data.train, model.data.test
    task = task_of(spec)
    yield from task.plots(winner.pipeline, train, test)
    if not isinstance(task, SupervisedTask):  # the others need one of scikit-learn's scorers
        return
    means, figure = importance(spec, winner.pipeline, test)
    yield "pictures/feature-importance.png", figure
    yield "feature-importance.json", means
    if not model.origin:
        table, figure = learning_curve(spec, winner, train, model.data.folds)
        yield "pictures/learning-curve.png", figure
        yield "learning-curve.csv", table


def importance(spec: ModelSpec, pipeline: Pipeline, test: Rows) -> tuple[dict[str, float], Figure]:
    """Return each raw feature's permutation importance, and a plot of it.

    The importance is how much the headline metric falls when the feature is shuffled among (at most 500)
    held-out rows, the mean of three shuffles (scikit-learn's permutation_importance). Correlated features
    share theirs.
    """
    rows = test.features
    sample = rows.sample(min(_IMPORTANCE_ROWS, len(rows)), random_state=spec.split.seed)
    result = permutation_importance(
        pipeline,
        sample,
        required(test.target).loc[sample.index],
        scoring=spec.metric,
        n_repeats=3,
        random_state=spec.split.seed,
    )
    means = dict(zip(spec.features, map(float, result.importances_mean), strict=True))
    ordered = sorted(means.items(), key=lambda item: item[1])
    figure = Figure(figsize=(7, 0.6 + 0.32 * len(ordered)), layout="constrained")
    axes = figure.add_subplot()
    axes.barh([name for name, _ in ordered], [value for _, value in ordered])
    axes.set(xlabel=f"loss of {spec.metric} when shuffled", title="Permutation importance, held-out rows")
    return means, figure


def learning_curve(
    spec: ModelSpec, winner: candidates.FittedCandidate, train_rows: Rows, folds: Folds
) -> tuple[pd.DataFrame, Figure]:
    """Return the headline metric against the number of training rows, on these and on the folds' other rows.

    A share of a fold's training rows is drawn at random, with the spec's seed. The last point is the
    cross-validation that chose the winner, and its score on all training rows.
    """
    rows, target = train_rows.features, required(train_rows.target)
    random, lines = np.random.default_rng(spec.split.seed), []
    score = get_scorer(spec.metric)
    for share in _SHARES:
        scores = []
        for train, test in folds:
            drawn = np.sort(random.permutation(train)[: max(2, round(share * len(train)))])
            pipeline = candidates.build(spec, winner.candidate).fit(rows.iloc[drawn], target.iloc[drawn])
            scores.append([score(pipeline, rows.iloc[at], target.iloc[at]) for at in (drawn, test)])
        fitted, unseen = np.array(scores).T
        count = round(share * np.mean([len(train) for train, _ in folds]))
        lines.append([count, fitted.mean(), unseen.mean(), unseen.std()])
    whole = round(float(np.mean([len(train) for train, _ in folds])))
    lines.append([whole, score(winner.pipeline, rows, target), winner.cv_mean, winner.cv_std])
    table = pd.DataFrame(lines, columns=["rows", "train", "cv", "cv_std"])
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(table["rows"], table["train"], marker="o", label="rows it was fitted on")
    axes.errorbar(
        table["rows"],
        table["cv"],
        yerr=table["cv_std"],
        marker="o",
        capsize=3,
        label="other rows of the folds",
    )
    axes.set(xlabel="training rows", ylabel=spec.metric, title=f"Learning curve of {winner.candidate.name}")
    axes.legend()
    return table, figure
