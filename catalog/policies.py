"""Gate policies, one per task; a model's declaration may bring its own.

Conditions are DeepChecks' own. Thresholds are DeepChecks' defaults unless `why` says otherwise; how each
was arrived at is in docs/gate.md.
"""

from catalog.spec import Check, GatePolicy

_INTEGRITY = (
    Check(
        check="IsSingleValue",
        suite="data_integrity",
        condition="not_single_value",
        why="A feature with one value carries nothing and usually means that an ingest broke.",
    ),
    Check(
        check="MixedNulls",
        suite="data_integrity",
        condition="different_nulls_less_equal_to",
        why="Several spellings of `missing` in one column are a broken ingest.",
    ),
    Check(
        check="DataDuplicates",
        suite="data_integrity",
        condition="ratio_less_or_equal",
        condition_params={"max_ratio": 0.05},
        why="Repeated rows count twice in every score. DeepChecks' default.",
    ),
)

_TRAIN_TEST = (
    Check(
        check="TrainTestSamplesMix",
        suite="train_test_validation",
        condition="duplicates_ratio_less_or_equal",
        condition_params={"max_ratio": 0.0},
        why="A held-out row that was trained on makes the score a lie; none is acceptable.",
    ),
    Check(
        check="FeatureDrift",
        suite="train_test_validation",
        condition="drift_score_less_than",
        why="The held-out rows must look like the training rows. DeepChecks' default, 0.2 per feature.",
    ),
    Check(
        check="LabelDrift",
        suite="train_test_validation",
        condition="drift_score_less_than",
        why="The same for what is predicted. DeepChecks' default.",
    ),
)

CLASSIFICATION = GatePolicy(
    checks=(
        *_INTEGRITY,
        Check(
            check="ConflictingLabels",
            suite="data_integrity",
            condition="ratio_of_conflicting_labels_less_or_equal",
            why="The same features under two labels cannot be learned; cleaning must have resolved them.",
        ),
        *_TRAIN_TEST,
        Check(
            check="NewLabelTrainTest",
            suite="train_test_validation",
            condition="new_labels_number_less_or_equal",
            why="A label that was never trained on can never be predicted.",
        ),
        Check(
            check="TrainTestPerformance",
            suite="model_evaluation",
            condition="train_test_relative_degradation_less_than",
            condition_params={"threshold": 0.35},
            why="A model that remembers its training rows. To be calibrated.",
        ),
        Check(
            check="SimpleModelComparison",
            suite="model_evaluation",
            condition="gain_greater_than",
            why="Must beat the naive baseline.",
        ),
        Check(
            check="WeakSegmentsPerformance",
            suite="model_evaluation",
            condition="segments_relative_performance_greater_than",
            required=False,
            why="Says where the model is weak; a report for people.",
        ),
    )
)

REGRESSION = GatePolicy(
    checks=(
        *_INTEGRITY,
        *_TRAIN_TEST,
        Check(
            check="TrainTestPerformance",
            suite="model_evaluation",
            condition="train_test_relative_degradation_less_than",
            condition_params={"threshold": 0.35},
            why="A model that remembers its training rows. To be calibrated.",
        ),
        Check(
            check="SimpleModelComparison",
            suite="model_evaluation",
            condition="gain_greater_than",
            why="Must beat the naive baseline.",
        ),
        Check(
            check="WeakSegmentsPerformance",
            suite="model_evaluation",
            condition="segments_relative_performance_greater_than",
            required=False,
            why="Says where the model is weak; a report for people.",
        ),
    )
)
