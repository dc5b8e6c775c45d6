"""Challenger against incumbent: both predict the same held-out rows, and the difference gets an interval."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.metrics import get_scorer

from checks.bootstrap import Floats, Positions, percentile_interval, resampled_scores, resamples
from checks.builtin.context import CheckContext
from checks.builtin.tasks import task_checks
from checks.precomputed import score_rows
from registry.client.registry import Registry
from registry.errors import ModelFormatError, RegistryRefusedError
from registry.evidence.verdict import CheckOutcome, Incumbent
from registry.model_format.onnx_model import OnnxModel
from registry.names import Stage

INCUMBENT_COMPARISON = "IncumbentComparison"


@dataclass(frozen=True)
class IncumbentModel:
    """The version in Production: its identity, and what loads its model."""

    identity: Incumbent
    load: Callable[[], OnnxModel]


def find_incumbent(
    registry: Registry,
    model: str,
    challenger: int | None = None,
    require: Callable[[bytes], None] = lambda _: None,
) -> IncumbentModel | None:
    """Return the version in Production, which a challenger must not be worse than; None if there is no other.

    It is named by the digest of its own evidence, as the server names it. One that does not hold those bytes
    any more, or cannot be loaded, is nothing to be better than: the comparison fails. `require` looks at its
    file first: an operator's override, or an older gate, may have brought there what nobody tried.
    """
    try:
        current = registry.in_stage(model, Stage.PRODUCTION)
    except RegistryRefusedError:
        # Where a login is asked for, MLflow says the same of a model that is not there as of a forbidden one.
        # Nothing is let through by it: the server compares the evidence with what it has in Production.
        if registry.versions(model):
            raise
        return None
    if current is None or current.number == challenger:
        return None
    identity = registry.evidence_identity(current)

    def load() -> OnnxModel:
        if registry.identity(current) != identity:
            raise ModelFormatError(
                f"{current} does not hold the bytes that were checked; `greenroom rollback {model}` first"
            )
        content = registry.model_bytes(current)
        require(content)
        return OnnxModel(content, threads=2)

    return IncumbentModel(identity, load)


def compare(context: CheckContext, incumbent: IncumbentModel) -> CheckOutcome:
    """Return whether the model of `context` is no worse than the incumbent, as one more outcome of the gate.

    The outcome's value is the difference of the headline metric on the held-out rows (higher is better), its
    reason states both scores and the 95 % interval. An incumbent that cannot answer these rows gives the
    status `error`, which refuses.
    """
    spec, number = context.spec, incumbent.identity.version
    try:
        scores = _scores(context, incumbent.load())
    except Exception as error:  # noqa: BLE001 - onnxruntime and scorers raise many kinds: no comparison, no pass
        reason = f"could not be compared with version {number} in Production: {type(error).__name__}: {error}"
        return _outcome("error", reason, None)
    differences = scores[:, 0] - scores[:, 1]
    difference = float(differences[0])
    low, high = percentile_interval(differences[1:])
    reason = (
        f"{spec.metric} {scores[0, 0]:.4g} against {scores[0, 1]:.4g} of version {number} in Production, on "
        f"the same {len(context.test):,} held-out rows: {difference:+.4g}, 95 % interval {low:+.4g} to "
        f"{high:+.4g}; "
    )
    if not np.isfinite([difference, low, high]).all():
        return _outcome("error", reason + "which is no number", None)
    allowed = spec.gate.max_worse
    worse = high < -allowed
    limit = f"by more than {allowed:g} " if allowed else ""
    reason += f"{'worse' if worse else 'not worse'} {limit}beyond noise"
    return _outcome("failed" if worse else "passed", reason, difference)


def _outcome(status: Any, reason: str, value: float | None) -> CheckOutcome:
    return CheckOutcome(
        check=INCUMBENT_COMPARISON,
        suite="model_evaluation",
        required=True,
        status=status,
        reason=reason,
        value=value,
    )


def _scores(context: CheckContext, incumbent: OnnxModel) -> Floats:
    """Return both models' scores on all rows (first line), then on each sample of them, the same for both."""
    spec, models = context.spec, (context.model, incumbent)
    for model in models:
        _require_fit(context, model)
    samples = resamples(len(context.test), np.random.default_rng(spec.split.seed))
    if checks := task_checks(spec.task):
        # The metric is a mean over rows. A row's silhouette is taken as given, whichever rows are drawn.
        by_row = np.array([checks.score_by_row(context, model) for model in models])
        return resampled_scores(lambda sample: by_row[:, sample].mean(axis=1), samples)
    target, metric = context.test[spec.target].to_numpy(), get_scorer(spec.metric)
    estimators = [score_rows(spec, model, context.test).estimator() for model in models]

    def score(sample: Positions) -> list[float]:
        return [metric(estimator, sample, target[sample]) for estimator in estimators]

    return resampled_scores(score, samples)


def _require_fit(context: CheckContext, model: OnnxModel) -> None:
    spec, description = context.spec, model.description
    if description.task != spec.task:
        raise ValueError(f"it is a {description.task} model, this is a {spec.task}")
    columns = set(context.test.columns) - {spec.target}
    if absent := [name for name in description.features if name not in columns]:
        raise ValueError(f"it reads {', '.join(absent)}, which these rows do not have")
