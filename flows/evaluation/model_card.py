"""The model card: what a version is, what it was learned from, how good it is and where it is not.
Generated Markdown.

After Mitchell et al., Model Cards for Model Reporting (FAT* 2019). Every sentence is generated from a
training's results, so that none is left over from another version.
"""

import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version

import annotated_types
from pydantic.fields import FieldInfo

from catalog.spec import ModelSpec
from checks.bootstrap import DRAWS
from checks.data.fingerprints import git_commit
from checks.markdown import checks_table, one_line
from flows.evaluation.intervals import Interval
from flows.evaluation.scores import Evaluation
from flows.modeling.search import best_trial
from flows.modeling.trained_model import TrainedModel
from flows.tasks.calibration import BINS
from flows.tasks.registry import task_of
from registry.evidence.verdict import Verdict

_LIBRARIES = ("scikit-learn", "skl2onnx", "onnx", "onnxruntime", "optuna", "mlflow", "numpy", "pandas")
# A class below it is recognised less than half as well as could be.
_WEAK_F1 = 0.5
_GATE_SECTION = "The gate"


@dataclass(frozen=True)
class Facts:
    """What a card is generated from."""

    model: TrainedModel
    evaluation: Evaluation
    run_id: str

    @property
    def spec(self) -> ModelSpec:
        """The model's declaration."""
        return self.model.spec


def card(facts: Facts) -> str:
    """Return the card as Markdown, without what the gate said: that comes later (`with_verdict`)."""
    spec, evaluation = facts.spec, facts.evaluation
    sections = {
        "Data": _data(facts),
        "How it was chosen": _chosen(facts),
        "Scores": _scores(facts),
        **({"Probabilities": _probabilities(facts)} if evaluation.classes else {}),
        "Limits": "\n".join(f"- {limit}" for limit in _limits(facts)),
        "Lineage": _lineage(facts),
    }
    parts = [
        f"# Model card: {spec.name}",
        f"{one_line(spec.description)} A {spec.task}, {facts.model.winner.candidate.name}.",
        *filter(None, [facts.model.origin]),
        _table(("", evaluation.metric, "95 % interval"), _headlines(evaluation)),
    ]
    parts += [f"## {title}\n\n{text}" for title, text in sections.items()]
    return "\n\n".join(parts) + "\n"


def with_verdict(text: str, verdict: Verdict) -> str:
    """Return a card with the gate's verdict: quoted in its beginning, and all checks in a section at its end.

    A verdict that the card has already is replaced.
    """
    title, _, body = text.partition("\n\n")
    lines = body.partition(f"## {_GATE_SECTION}")[0].splitlines()
    while lines and (not lines[0] or lines[0].startswith(">")):
        lines.pop(0)
    body = "\n".join(lines).rstrip()
    return f"{title}\n\n{_gate_result(verdict)}\n\n{body}\n\n{_gate_section(verdict)}\n"


def summary(text: str) -> str:
    """Return the beginning of a card, without its title: what the model is, and how good it is."""
    return text.partition("\n\n")[2].partition("\n\n## ")[0] + "\n"


def _gate_result(verdict: Verdict) -> str:
    """Return the verdict as a quotation, by which a later one finds it."""
    if verdict.passed:
        return "> The gate let this model pass."
    why = "".join(f"\n> - {o.check} {o.status}: {one_line(o.reason)}" for o in verdict.refusals)
    return f"> **The gate refused this model: it is not for use.**\n>{why}"


def _gate_section(verdict: Verdict) -> str:
    before = f"version {verdict.incumbent.version}" if verdict.incumbent else "none was in Production"
    data = verdict.data
    by = "" if data is None or data.declared else f", brought by {one_line(data.brought_by or '?')}"
    lines = [
        ("rows", f"`{one_line(data.source)}`{by}" if data else "not known"),
        ("training rows", f"`{verdict.dataset_digests['train']}`"),
        ("held-out rows", f"`{verdict.dataset_digests['test']}`"),
        ("ONNX file", f"`{verdict.model_digest}`"),
        ("gate policy", f"`{verdict.policy_digest}`"),
        ("compared with", before),
    ]
    weak = [
        f"Weakest segments: {one_line(outcome.reason)}"
        for outcome in verdict.outcomes
        if outcome.check == "WeakSegmentsPerformance" and outcome.status == "failed"
    ]
    when = f"As of {verdict.created_at:%Y-%m-%d %H:%M} UTC. `greenroom gate {verdict.model}` has what counts."
    return "\n\n".join([f"## {_GATE_SECTION}", when, checks_table(verdict), *weak, _table(("", ""), lines)])


def _headlines(evaluation: Evaluation) -> list[tuple[str, str, str]]:
    intervals: list[tuple[str, Interval | None]] = [
        ("this model, held-out rows", evaluation.headline),
        (f"naive baseline ({evaluation.baseline_name})", evaluation.baseline),
        ("RandomForest with scikit-learn's defaults", evaluation.forest),
        ("better than the baseline by", evaluation.gain),
        ("better than that forest by", evaluation.over_forest),
    ]
    return [(name, f"{score.value:.3f}", _ends(score)) for name, score in intervals if score is not None]


def _ends(score: Interval) -> str:
    return "-" if score.low is None or score.high is None else f"{score.low:.3f} to {score.high:.3f}"


def _data(facts: Facts) -> str:
    spec, counts = facts.spec, facts.model.cleaning
    dataset = spec.dataset
    train, test = len(facts.model.data.train.features), len(facts.model.data.test.features)
    by = (
        f"by `{dataset.group}`: no main value of it is on both sides, so that the scores are those of rows "
        f"whose `{dataset.group}` the model has never met ({facts.evaluation.groups:,} of them held out)"
        if dataset.group
        else "row by row, since the dataset names no groups"
    )
    return (
        f"{dataset.name}: {one_line(dataset.description)} Source: `{one_line(dataset.source)}`.\n\n"
        f"{counts.read:,} rows were read. Left out: {counts.invalid:,} that break the contract, "
        f"{counts.conflicting:,} that stand under several labels, {counts.repeated:,} that repeat another. "
        f"{counts.kept:,} were kept: {train:,} to train on, {test:,} held out"
        f"{_between(counts.kept - train - test)}. Split {by}. "
        f"Held-out rows were used to measure and to check, not to choose.\n\n"
        f"Target: {f'`{spec.label}`' if spec.label else 'none'}{f' ({spec.unit})' if spec.unit else ''}. "
        f"Features: {', '.join(f'`{name}`' for name in spec.features)}."
    )


def _between(rows: int) -> str:
    return f", and {rows:,} that share a value with both left out of both" if rows else ""


def _chosen(facts: Facts) -> str:
    spec, metric = facts.spec, f"cv {facts.spec.metric}"
    if facts.model.origin:
        fitted = facts.model.winner
        scored = f"{fitted.cv_mean:.3f} ± {fitted.cv_std:.3f}" if fitted.folds else "not known"
        return (
            f"By whoever submitted it. {metric} on {spec.split.folds} folds of the training rows: {scored}."
        )
    names = dict.fromkeys(trial.candidate.name for trial in facts.model.trials)
    best = {name: best_trial(facts.model.trials, name) for name in names}
    trials = sum(trial.state != "declared" for trial in facts.model.trials)
    lines = [
        (
            f"**{name}**" if name == facts.model.winner.candidate.name else name,
            f"`{trial.candidate.estimator}`",
            ", ".join(f"{n}={v}" for n, v in trial.candidate.params.items()) or "defaults",
            trial.state,
            f"{trial.mean:.3f}",
        )
        for name, trial in best.items()
    ]
    searched = (
        f"then {trials} trials around them (Optuna's tree-structured Parzen "
        f"estimator, seed {spec.split.seed}; all of them are in `search/trials.csv`)"
        if trials
        else "and nothing else: there was no search"
    )
    return (
        f"By {spec.metric} on {spec.split.folds} folds of the training rows: the declared candidates, "
        f"{searched}. "
        "The best of many is a little luckier than it is good; nothing is chosen by the held-out scores.\n\n"
        + _table(("candidate", "estimator", "parameters", "found", metric), lines)
    )


def _scores(facts: Facts) -> str:
    evaluation = facts.evaluation
    rows = [
        (name, f"{value:.4g}", f"{evaluation.train[name]:.4g}" if name in evaluation.train else "-")
        for name, value in evaluation.test.items()
    ]
    drawn = "whole groups" if facts.spec.dataset.group else "rows"
    parts = [
        f"Intervals: 95 %, percentiles of {DRAWS} bootstrap draws of {drawn}, the same draws for both models "
        "of a difference. They leave out the luck of the split and of the training.",
        _table(("metric", "held-out", "training rows"), rows),
    ]
    if evaluation.classes:
        parts.append(
            _table(
                ("class", "held-out rows", "precision", "recall", "F1"),
                [
                    (one_line(c.name), f"{c.rows:,}", *(f"{v:.3f}" for v in (c.precision, c.recall, c.f1)))
                    for c in evaluation.classes
                ],
            )
        )
    return "\n\n".join(parts)


def _probabilities(facts: Facts) -> str:
    calibration, evaluation = facts.model.winner.calibration, facts.evaluation
    if calibration is None or calibration.temperature is None:
        why = calibration.why if calibration else "it was not tried"
        origin = f"They are the estimator's own; no temperature was applied: {why}."
    else:
        origin = (
            f"Scaled by the temperature {calibration.temperature:.3f}, learned from training rows that the "
            "estimator had not seen, fold by fold. Which class is named does not change by it."
        )
    names = {
        "log_loss": "log loss",
        "brier": "Brier score",
        "ece": f"expected calibration error, {BINS} bins",
    }
    lines = [
        (
            text,
            f"{evaluation.uncalibrated[name]:.4f}" if name in evaluation.uncalibrated else "-",
            f"{evaluation.test[name]:.4f}",
        )
        for name, text in names.items()
    ]
    return f"{origin} Held-out rows, lower is better:\n\n" + _table(("", "before", "as served"), lines)


def _limits(facts: Facts) -> Iterable[str]:
    spec, evaluation = facts.spec, facts.evaluation
    for name, gain in (("naive baseline", evaluation.gain), ("default RandomForest", evaluation.over_forest)):
        if gain is not None and (gain.low is None or gain.low <= 0):
            yield f"It is not shown to be better than the {name}: the difference may be {_ends(gain)}."
    weak = [c for c in evaluation.classes if c.f1 < _WEAK_F1]
    for c in sorted(weak, key=lambda c: c.f1):
        yield (
            f"The class {one_line(c.name)} is recognised badly: of {c.rows:,} held-out rows of it "
            f"{c.recall:.0%} are found, and {c.precision:.0%} of what is called so is (F1 {c.f1:.2f})."
        )
    yield from task_of(spec).limits(evaluation.test)
    rows = len(facts.model.data.train.features)
    yield (
        f"It knows {rows:,} rows of {spec.dataset.name}, and nothing of what is not like them. Values that "
        "the contract allows and training hardly had are guessed at:\n\n" + _ranges(facts)
    )


def _ranges(facts: Facts) -> str:
    fields = facts.spec.dataset.features.model_fields
    rows = facts.model.data.train.features
    return _table(
        ("feature", "the contract allows", "98 % of training rows", "training rows"),
        [
            (
                f"`{name}`",
                _allowed(fields[name]),
                f"{rows[name].quantile(0.01):.4g} to {rows[name].quantile(0.99):.4g}",
                f"{rows[name].min():.4g} to {rows[name].max():.4g}",
            )
            for name in facts.spec.features
        ],
    )


def _allowed(field: FieldInfo) -> str:
    if field.annotation is bool:
        return "false or true"
    low, high = "", ""
    for rule in field.metadata:
        if isinstance(rule, annotated_types.Ge | annotated_types.Gt):
            low = f"{'above ' if isinstance(rule, annotated_types.Gt) else ''}{_bound(rule)}"
        elif isinstance(rule, annotated_types.Le | annotated_types.Lt):
            high = f"{'below ' if isinstance(rule, annotated_types.Lt) else ''}{_bound(rule)}"
    return f"{low or 'anything'} to {high or 'anything'}" if low or high else "anything"


def _bound(rule: annotated_types.Ge | annotated_types.Gt | annotated_types.Le | annotated_types.Lt) -> object:
    return next(iter(vars(rule).values())) if hasattr(rule, "__dict__") else getattr(rule, rule.__slots__[0])


def _lineage(facts: Facts) -> str:
    agreement, commit = facts.model.agreement, git_commit()
    libraries = ", ".join(f"{name} {version(name)}" for name in _LIBRARIES)
    same = "" if agreement.labels is None else f", {agreement.labels:.2%} of answers agree"
    lines = [
        ("run", f"`{facts.run_id}`"),
        ("commit", f"`{commit}`" if commit else "not known"),
        ("beside scikit-learn", f"differs by at most {agreement.max_difference:.2g}{same}"),
        ("seed", str(facts.spec.split.seed)),
        ("made with", f"Python {platform.python_version()}, {libraries}"),
    ]
    return _table(("", ""), lines)


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
