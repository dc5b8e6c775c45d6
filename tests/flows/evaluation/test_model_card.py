"""The model card: it has what it must, says what is bad, and recommends nothing that the gate refused."""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.dummy import DummyClassifier

from catalog.loader import get_model
from checks import bootstrap
from checks.data.cleaning import Cleaning
from checks.data.fingerprints import git_commit
from checks.data.splits import Rows, SplitRows
from flows.evaluation import model_card
from flows.evaluation.intervals import Interval
from flows.evaluation.scores import Evaluation
from flows.modeling import candidates, search
from flows.modeling.candidates import FittedCandidate
from flows.modeling.trained_model import TrainedModel
from flows.tasks.base import Agreement, ClassScore
from flows.tasks.calibration import Calibration
from registry.evidence.verdict import CheckOutcome, Incumbent, Verdict

SPEC = get_model("genre")
QUALITY = {"log_loss": 0.9, "brier": 0.5, "ece": 0.04}


def outcome(check: str, status: Any = "passed", reason: str = "fine", required: bool = True) -> CheckOutcome:
    return CheckOutcome(
        check=check, suite="model_evaluation", required=required, status=status, reason=reason
    )


def verdict(*outcomes: CheckOutcome, **changes: Any) -> Verdict:
    said = {
        "model": "genre",
        "task": "classification",
        "model_digest": "sha256:" + "a" * 64,
        "policy_digest": "sha256:" + "b" * 64,
        "dataset_digests": {"train": "sha256:" + "c" * 64, "test": "sha256:" + "d" * 64},
        "git_commit": "e" * 40,
        "outcomes": outcomes or (outcome("TrainTestPerformance"),),
    }
    return Verdict(**{**said, **changes})


MEASURED = Evaluation(
    metric="balanced_accuracy",
    train={"balanced_accuracy": 0.76, "log_loss": 0.7},
    test={"balanced_accuracy": 0.61, **QUALITY},
    headline=Interval(0.61, 0.57, 0.65),
    baseline_name="always the most frequent class",
    baseline=Interval(0.17, 0.17, 0.17),
    gain=Interval(0.44, 0.4, 0.48),
    forest=Interval(0.6, 0.55, 0.63),
    over_forest=Interval(0.01, -0.01, 0.03),
    uncalibrated={"log_loss": 1.1, "brier": 0.6, "ece": 0.18},
    classes=(ClassScore("metal", 161, 0.6, 0.7, 0.65), ClassScore("rock", 104, 0.2, 0.1, 0.13)),
    groups=250,
)


def facts(**changes: Any) -> model_card.Facts:
    first, second = SPEC.candidates[0], SPEC.candidates[1]
    calibration = Calibration(0.7, "log loss on training folds is lower for it", QUALITY, QUALITY)
    winner = FittedCandidate(second, DummyClassifier(), 0.6, 0.01, calibration=calibration)
    tried = [
        search.Trial(first, (candidates.FoldScore(0.55),) * 3, "declared", 1.0),
        search.Trial(second, (candidates.FoldScore(0.58),) * 3, "declared", 1.0),
        search.Trial(second, (candidates.FoldScore(0.6),) * 3, "complete", 1.0),
        search.Trial(first, (candidates.FoldScore(0.9),), "pruned", 1.0),
    ]
    random = np.random.default_rng(0)
    rows = pd.DataFrame(random.uniform(size=(50, len(SPEC.features))), columns=list(SPEC.features))
    others = pd.DataFrame(index=rows.index)
    model = TrainedModel(
        spec=changes.pop("spec", SPEC),
        cleaning=Cleaning(6000, 1, 287, 1148, 80),
        data=SplitRows(Rows(rows, others, None), Rows(rows[:20], others[:20], None), []),
        winner=changes.pop("winner", winner),
        scored=[],
        trials=changes.pop("trials", tried),
        content=b"",
        agreement=Agreement(1.0, 0.01),
    )
    plain: dict[str, Any] = {"evaluation": MEASURED, "run_id": "f" * 32}
    return model_card.Facts(model, **{**plain, **changes})


def judged(judgement: Verdict | None = None, **changes: Any) -> str:
    """Return the card of these facts with a verdict."""
    return model_card.with_verdict(model_card.card(facts(**changes)), judgement or verdict())


def test_it_has_data_choice_scores_probabilities_checks_limits_and_lineage() -> None:
    text = judged()
    heads = [line.removeprefix("## ") for line in text.splitlines() if line.startswith("## ")]
    assert heads == [
        "Data",
        "How it was chosen",
        "Scores",
        "Probabilities",
        "Limits",
        "Lineage",
        "The gate",
    ]
    for part in (
        "# Model card: genre",
        "| this model, held-out rows | 0.610 | 0.570 to 0.650 |",
        "| naive baseline (always the most frequent class) | 0.170 | 0.170 to 0.170 |",
        "| RandomForest with scikit-learn's defaults | 0.600 | 0.550 to 0.630 |",
        "6,000 rows were read. Left out: 1 that break the contract, 287 that stand under several labels",
        "80 were kept: 50 to train on, 20 held out, and 10 that share a value with both left out of both",
        "Split by `artists`",
        "(250 of them held out)",
        "then 2 trials around them",
        "| **random-forest** | `sklearn.ensemble.RandomForestClassifier` |",
        "Scaled by the temperature 0.700",
        "| expected calibration error, 15 bins | 0.1800 | 0.0400 |",
        "| TrainTestPerformance | required | passed | fine |",
        "| rock | 104 | 0.200 | 0.100 | 0.130 |",
        "| `loudness` | -60.0 to 6.0 |",
        "| `explicit` | false or true |",
        f"| run | `{'f' * 32}` |",
        f"| commit | `{git_commit()}` |",
        f"| training rows | `sha256:{'c' * 64}` |",
        f"| ONNX file | `sha256:{'a' * 64}` |",
        "scikit-learn 1.",
    ):
        assert part in text, part
    # What was cut is no score.
    assert "| 0.900 |" not in text


def test_limits_are_what_was_found() -> None:
    weak = outcome("WeakSegmentsPerformance", "failed", "a segment with accuracy 0.315", required=False)
    text = judged(verdict(outcome("TrainTestPerformance"), weak))
    limits = text.split("## Limits")[1].split("## Lineage")[0]
    assert (
        "not shown to be better than the default RandomForest: the difference may be -0.010 to 0.030"
        in limits
    )
    assert "The class rock is recognised badly: of 104 held-out rows of it 10% are found" in limits
    assert "The class metal" not in limits
    assert "Weakest segments: a segment with accuracy 0.315" in text.split("## The gate")[1]
    good = replace(
        MEASURED, over_forest=Interval(0.02, 0.01, 0.03), classes=(ClassScore("metal", 161, 0.6, 0.7, 0.65),)
    )
    praised = model_card.card(facts(evaluation=good)).split("## Limits")[1]
    assert "not shown" not in praised
    assert "recognised badly" not in praised


def test_a_refused_model_is_said_to_be_refused_first_of_all_and_why() -> None:
    bad = verdict(
        outcome("TrainTestPerformance"),
        outcome("SimpleModelComparison", "failed", "gain of 2% | less than <10%>\nof it"),
    )
    refused = judged(bad)
    for text in (refused, model_card.summary(refused)):
        before_scores = text.split("| this model")[0]
        assert "**The gate refused this model: it is not for use.**" in before_scores
        assert "- SimpleModelComparison failed: gain of 2% \\| less than &lt;10%> of it" in before_scores
        assert "let this model pass" not in text
    # The next verdict takes its place, in both places.
    again = model_card.with_verdict(refused, verdict())
    assert again == judged()
    assert "refused" not in model_card.summary(again)
    assert "The gate let this model pass." in model_card.summary(again)


def test_what_is_not_known_is_said_to_be_so(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = replace(
        facts().model.winner, calibration=Calibration(None, "the probabilities are no better for it", {}, {})
    )
    monkeypatch.setattr(model_card, "git_commit", lambda: None)
    text = judged(
        verdict(git_commit=None, incumbent=Incumbent(version=4, digest=None)),
        winner=plain,
        trials=facts().model.trials[:2],
        evaluation=replace(MEASURED, uncalibrated={}, headline=Interval(0.61, None, None)),
    )
    assert "no temperature was applied: the probabilities are no better for it" in text
    assert "| log loss | - | 0.9000 |" in text
    assert "there was no search" in text
    assert "| this model, held-out rows | 0.610 | - |" in text
    assert "| commit | not known |" in text
    assert "| compared with | version 4 |" in text


@pytest.mark.parametrize(
    ("name", "metric", "test", "limit"),
    [
        (
            "energy",
            "r2",
            {"r2": 0.04, "root_mean_squared_error": 25.0},
            "It explains 4% of the spread of energy",
        ),
        ("clusters", "silhouette", {"silhouette": 0.21}, "A silhouette of 0.21 is a weak structure"),
        ("similar", "agreement_at_10", {"agreement_at_10": 0.21}, "It knows 50 rows of spotify_by_genre"),
    ],
)
def test_every_task_has_a_card(name: str, metric: str, test: dict[str, float], limit: str) -> None:
    spec = get_model(name)
    measured = replace(
        MEASURED, metric=metric, train=test, test=test, headline=Interval(0.21, 0.2, 0.22), classes=()
    )
    text = model_card.card(facts(spec=spec, evaluation=measured))
    assert limit in text
    assert "## Probabilities" not in text
    assert f"|  | {metric} | 95 % interval |" in text


def test_the_summary_fits_where_mlflow_keeps_a_description() -> None:
    summary = model_card.summary(judged())
    assert len(summary) < 5000
    assert summary.startswith("> The gate let this model pass.")
    assert "| this model, held-out rows | 0.610 | 0.570 to 0.650 |" in summary
    assert "## " not in summary


def test_draws_and_metrics_are_named_as_the_docs_name_them() -> None:
    assert bootstrap.DRAWS == 400
    assert {
        "test_balanced_accuracy_low",
        "baseline_balanced_accuracy",
        "gain_over_default_forest_high",
    } <= set(MEASURED.metrics())
    assert MEASURED.metrics()["uncalibrated_ece"] == 0.18
