"""Shapley values of one prediction against a background. Mathematics alone: numpy, no model format, no HTTP.

The game (interventional, also called marginal): features in a coalition S have the row's values, the others
those of a background row b, and v(S) is the mean over the background of f(x_S, b_rest). Feature i gets

    phi_i = sum over S without i of |S|! (d-|S|-1)! / d! * (v(S + i) - v(S))

so that base value + sum of phi = f(x). Sources: Shapley 1953; permutation sampling: Štrumbelj & Kononenko,
"Explaining prediction models and individual predictions with feature contributions", Knowledge and
Information Systems 41 (2014); additivity as the defining property: Lundberg & Lee, "A Unified Approach to
Interpreting Model Predictions", NeurIPS 2017. Antithetic (reversed) permutations: Mitchell, Cooper, Frank &
Holmes, "Sampling Permutations for Shapley Value Estimation", JMLR 23 (2022).
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import factorial

import numpy as np
import numpy.typing as npt

from registry.model_format.onnx_model import Rows
from serving.tasks.explanation import Method

Floats = npt.NDArray[np.float64]
# f: rows, float32 of shape (n, features), to n numbers.
Model = Callable[[Rows], Floats]

# The same row gets the same answer, today and in another process.
_SEED = 20140527
# A spread within a background row needs two pairs of permutations at the least.
_LEAST_PAIRS = 2
# 2^20 coalitions are beyond any budget; above it nothing need be computed to know that.
_MOST_ENUMERATED = 20


@dataclass(frozen=True)
class Shapley:
    """What each feature contributes to one prediction, in the prediction's own unit.

    `base_value + contributions.sum() == prediction`, but for the rounding of sums of float64.
    """

    method: Method
    prediction: float
    base_value: float
    contributions: Floats
    standard_errors: Floats
    background_rows: int
    rows_evaluated: int


def shapley(model: Model, row: Rows, background: Rows, max_rows: int) -> Shapley:
    """Return the Shapley values of `model` at `row` (shape (d,)) against `background` (shape (b, d)).

    `model` is called once, with at most `max_rows` rows (or 4d, if that is more: one background row and the
    four permutations without which there is no standard error). Enumerates all 2^d coalitions where they fit;
    otherwise samples permutations, the same number for each background row, and uses fewer background rows
    where even two pairs for each do not fit. The answer depends on nothing but the arguments.
    """
    if _enumerable(len(row), len(background), max_rows):
        return _exact(model, row, background)
    return _sampled(model, row, background, max_rows)


def _enumerable(features: int, background: int, max_rows: int) -> bool:
    return features <= _MOST_ENUMERATED and background * 2**features <= max_rows


def _exact(model: Model, row: Rows, background: Rows) -> Shapley:
    """Enumerate: v(S) for every S, as bits of a number, and the sum above."""
    features = len(row)
    coalitions = np.arange(2**features)
    inside = (coalitions[:, None] >> np.arange(features)) & 1 == 1
    rows = np.where(inside[:, None, :], row, background).reshape(-1, features)
    value = model(rows).reshape(len(coalitions), len(background)).mean(axis=1)
    size = inside.sum(axis=1)
    weight = np.array(
        [factorial(s) * factorial(features - s - 1) / factorial(features) for s in range(features)]
    )
    contributions = np.empty(features)
    for feature in range(features):
        without = coalitions[~inside[:, feature]]
        gain = value[without | (1 << feature)] - value[without]
        contributions[feature] = weight[size[without]] @ gain
    return Shapley(
        method="shapley_exact",
        prediction=float(value[-1]),
        base_value=float(value[0]),
        contributions=contributions,
        standard_errors=np.zeros(features),
        background_rows=len(background),
        rows_evaluated=len(rows),
    )


def _sampled(model: Model, row: Rows, background: Rows, max_rows: int) -> Shapley:
    """Walk from each background row to the row, one feature at a time, in random orders and back to front.

    A feature's gain on a walk is an unbiased estimate of its contribution against that background row, and
    the gains of one walk sum to f(x) - f(b) whatever the order. Each background row is walked from equally
    often, so the sum is exact against their mean; the spread of the pairs within a background row, not that
    between rows, is the sampling error.
    """
    features = len(row)
    background, pairs = _plan(background, features, max_rows)
    orders = _orders(len(background), pairs, features)
    # Step j of a walk has the features of its first j places; steps 0 and d are shared by many walks.
    place = np.argsort(orders, axis=-1)
    inside = place[..., None, :] < np.arange(1, features)[:, None]
    walked = np.where(inside, row, background[:, None, None, None, :]).reshape(-1, features)
    values = model(np.concatenate([background, row[None], walked]))
    start, end = values[: len(background)], values[len(background)]
    path = np.empty((len(background), pairs, 2, features + 1))
    path[..., 0] = start[:, None, None]
    path[..., 1:-1] = values[len(background) + 1 :].reshape(*path.shape[:3], features - 1)
    path[..., -1] = end
    # By feature instead of by place, and the two walks of a pair as one.
    gains = np.take_along_axis(np.diff(path, axis=-1), place, axis=-1).mean(axis=2)
    variance = gains.var(axis=1, ddof=1) / pairs
    return Shapley(
        method="shapley_permutations",
        prediction=float(end),
        base_value=float(start.mean()),
        contributions=gains.mean(axis=(0, 1)),
        standard_errors=np.sqrt(variance.sum(axis=0)) / len(background),
        background_rows=len(background),
        rows_evaluated=len(values),
    )


def _plan(background: Rows, features: int, max_rows: int) -> tuple[Rows, int]:
    """Return the background rows to use, and how many pairs of walks start from each.

    A pair costs 2(d-1) rows; each background row one more, and the explained row one.
    """
    steps = max(1, features - 1)
    affordable = (max_rows - 1) // (2 * _LEAST_PAIRS * steps + 1)
    used = background[: max(1, affordable)]
    pairs = ((max_rows - 1) // len(used) - 1) // (2 * steps)
    return used, max(_LEAST_PAIRS, pairs)


def _orders(background: int, pairs: int, features: int) -> npt.NDArray[np.intp]:
    """Return orders of the features, shape (background, pairs, 2, features): random, and each reversed."""
    # Not for secrets: for the same orders every time.
    random = np.random.default_rng(_SEED)
    forth = random.permuted(np.tile(np.arange(features), (background, pairs, 1)), axis=-1)
    return np.stack([forth, forth[..., ::-1]], axis=2)
