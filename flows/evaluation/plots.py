"""Pictures that a data scientist looks at first. Drawn without pyplot: it is not thread-safe."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.figure import Figure
from sklearn.inspection import permutation_importance
from sklearn.metrics import confusion_matrix, get_scorer
from sklearn.pipeline import Pipeline

from catalog.spec import ModelSpec
from flows.data.splits import Positions
from flows.modeling import calibration, candidates, clustering, similarity

# Features, and the column that scores are made with where there is one.
_Side = tuple[pd.DataFrame, "pd.Series[Any] | None"]

_IMPORTANCE_ROWS = 500
# Shares of the training rows that a learning curve is fitted on. All of them were fitted already.
_SHARES = (0.2, 0.5)


def draw(
    spec: ModelSpec,
    winner: candidates.Fitted,
    train: _Side,
    test: _Side,
    folds: Sequence[tuple[Positions, Positions]] | None = None,
) -> Iterator[tuple[str, Any]]:
    """Yield what there is to look at of a model, each with its path among the run's artifacts.

    Figures have paths that end with .png, tables with .csv, dictionaries with .json. With `folds` there is a
    learning curve of a model with a target.
    """
    pipeline, (rows, target) = winner.pipeline, test
    if spec.task == "clustering":
        count = clustering.count(pipeline)
        apart = clustering.profile(spec, train[0], pipeline.predict(train[0]), count)
        shares = np.bincount(pipeline.predict(rows), minlength=count) / len(rows)
        called = clustering.names(spec, apart)
        yield "pictures/clusters.png", clustering.picture(apart, called, shares)
        yield "clusters.json", dict(zip(called, apart.to_dict("records"), strict=True))
        return
    if target is None or train[1] is None:
        raise RuntimeError(f"a {spec.task} has a column that scores are made with")
    if spec.task == "similarity":
        yield "pictures/neighbours.png", similarity.picture(spec, pipeline, rows, target)
        return
    predicted, actual = pipeline.predict(rows), target.to_numpy()
    if spec.task == "classification":
        classes = [str(label) for label in pipeline.classes_]
        yield "pictures/confusion-matrix.png", confusion(actual, predicted, classes)
        yield "pictures/calibration-curve.png", reliability(actual, pipeline, rows)
    else:
        yield "pictures/residuals.png", residuals(actual, predicted, spec.unit)
    means, figure = importance(spec, pipeline, rows, target)
    yield "pictures/feature-importance.png", figure
    yield "feature-importance.json", means
    if folds is not None:
        table, figure = learning_curve(spec, winner, train[0], train[1], folds)
        yield "pictures/learning-curve.png", figure
        yield "learning-curve.csv", table


def confusion(actual: npt.NDArray[Any], predicted: npt.NDArray[Any], classes: list[str]) -> Figure:
    """Draw the confusion matrix of held-out rows: counts, coloured by the share of each true class."""
    counts = confusion_matrix(actual, predicted, labels=classes)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure = Figure(figsize=(1.5 + 0.8 * len(classes), 1.2 + 0.7 * len(classes)), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(classes)), classes, rotation=40, ha="right")
    axes.set_yticks(range(len(classes)), classes)
    axes.set(xlabel="predicted", ylabel="true", title="Held-out rows")
    for row, column in np.ndindex(counts.shape):
        colour = "white" if shares[row, column] > 0.5 else "black"
        axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=colour)
    return figure


def residuals(actual: npt.NDArray[Any], predicted: npt.NDArray[Any], unit: str | None) -> Figure:
    """Draw predictions of held-out rows against the truth, and what is left over."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.scatter(actual, predicted, s=6, alpha=0.4)
    low, high = float(min(actual.min(), predicted.min())), float(max(actual.max(), predicted.max()))
    left.plot([low, high], [low, high], color="black", linewidth=1)
    suffix = f" ({unit})" if unit else ""
    left.set(xlabel=f"true{suffix}", ylabel=f"predicted{suffix}", title="Held-out rows")
    right.hist(predicted - actual, bins=40)
    right.set(xlabel=f"predicted - true{suffix}", ylabel="rows", title="Residuals")
    return figure


def importance(
    spec: ModelSpec, pipeline: Pipeline, rows: pd.DataFrame, target: "pd.Series[Any]"
) -> tuple[dict[str, float], Figure]:
    """Return each raw feature's permutation importance, and a picture of it.

    The importance is how much the headline metric falls when the feature is shuffled among (at most 500)
    held-out rows, the mean of three shuffles (scikit-learn's permutation_importance). Correlated features
    share theirs.
    """
    sample = rows.sample(min(_IMPORTANCE_ROWS, len(rows)), random_state=spec.split.seed)
    found = permutation_importance(
        pipeline,
        sample,
        target.loc[sample.index],
        scoring=spec.metric,
        n_repeats=3,
        random_state=spec.split.seed,
    )
    means = dict(zip(spec.features, map(float, found.importances_mean), strict=True))
    ordered = sorted(means.items(), key=lambda item: item[1])
    figure = Figure(figsize=(7, 0.6 + 0.32 * len(ordered)), layout="constrained")
    axes = figure.add_subplot()
    axes.barh([name for name, _ in ordered], [value for _, value in ordered])
    axes.set(xlabel=f"loss of {spec.metric} when shuffled", title="Permutation importance, held-out rows")
    return means, figure


def reliability(actual: npt.NDArray[Any], pipeline: Pipeline, rows: pd.DataFrame) -> Figure:
    """Draw how often a classifier is right against how sure it is, before and after calibration."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot([0, 1], [0, 1], color="black", linewidth=1, label="as sure as right")
    scaled = calibration.is_calibrated(pipeline)
    forms = {"served": pipeline, **({"before calibration": calibration.bare(pipeline)} if scaled else {})}
    for name, form in forms.items():
        probabilities = form.predict_proba(rows)
        _, sure, right_share, _ = calibration.reliability(actual, probabilities, form.classes_)
        found = calibration.expected_error(actual, probabilities, form.classes_)
        left.plot(sure, right_share, marker="o", markersize=4, label=f"{name}: ECE {found:.3f}")
        right.hist(probabilities.max(axis=1), bins=calibration.BINS, range=(0, 1), alpha=0.6, label=name)
    left.set(xlabel="probability of the class named", ylabel="share that is right", title="Held-out rows")
    left.legend()
    right.set(xlabel="probability of the class named", ylabel="rows")
    right.legend()
    return figure


def learning_curve(
    spec: ModelSpec,
    winner: candidates.Fitted,
    rows: pd.DataFrame,
    target: "pd.Series[Any]",
    folds: Sequence[tuple[Positions, Positions]],
) -> tuple[pd.DataFrame, Figure]:
    """Return the headline metric against the number of training rows, on these and on the folds' other rows.

    A share of a fold's training rows is drawn at random, with the spec's seed. The last point is the
    cross-validation that chose the winner, and its score on all training rows.
    """
    random, lines = np.random.default_rng(spec.split.seed), []
    score = get_scorer(spec.metric)
    for share in _SHARES:
        found = []
        for train, test in folds:
            drawn = np.sort(random.permutation(train)[: max(2, round(share * len(train)))])
            pipeline = candidates.build(spec, winner.candidate).fit(rows.iloc[drawn], target.iloc[drawn])
            found.append([score(pipeline, rows.iloc[at], target.iloc[at]) for at in (drawn, test)])
        own, other = np.array(found).T
        many = round(share * np.mean([len(train) for train, _ in folds]))
        lines.append([many, own.mean(), other.mean(), other.std()])
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
