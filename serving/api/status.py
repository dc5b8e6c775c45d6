"""Describes the models and their state, for people and for orchestrators."""

from typing import Any

from serving.api.schemas import (
    FeatureInfo,
    ModelInfo,
    ModelReadiness,
    Readiness,
    RefusedVersion,
    RegistryReadiness,
    WorkerVersions,
)
from serving.inference.predictor import Predictor, Served
from serving.process.workers import Workers
from serving.tasks.base import Contract


def model_info(predictor: Predictor, name: str) -> ModelInfo:
    """Return what there is to know of one model."""
    state, contract = predictor.states[name], predictor.contracts.get(name)
    served = state if isinstance(state, Served) else None
    return ModelInfo(
        name=name,
        declared=name in predictor.specs,
        description=contract.description if contract else "A registered model that could not be read.",
        task=contract.task if contract else None,
        unit=contract.unit if contract else None,
        features=_features(contract) if contract else (),
        classes=(served.model.description.classes or None) if served else None,
        items=len(items.ids) if served and (items := served.model.description.items) else None,
        status="serving" if served else "unavailable",
        reason=None if isinstance(state, Served) else state.reason,
        version=served.version if served else None,
        digest=served.model.digest if served else None,
        loaded_at=served.loaded_at if served else None,
        source=served.source if served else None,
        refused=_refused(predictor, name),
    )


def readiness(predictor: Predictor, workers: Workers) -> Readiness:
    """Return which models are served; ready means at least one."""
    models = {
        name: ModelReadiness(
            status="serving", version=state.version, source=state.source, refused=_refused(predictor, name)
        )
        if isinstance(state, Served)
        else ModelReadiness(status="unavailable", reason=state.reason, refused=_refused(predictor, name))
        for name, state in predictor.states.items()
    }
    ready = any(model.status == "serving" for model in models.values())
    state = predictor.registry
    registry = RegistryReadiness(
        status="unknown" if state.checked_at is None else "unreachable" if state.problem else "reachable",
        checked_at=state.checked_at,
        reason=state.problem,
    )
    return Readiness(
        status="ready" if ready else "not_ready",
        models=models,
        registry=registry,
        workers=tuple(WorkerVersions(pid=pid, versions=versions) for pid, versions in workers.all().items()),
    )


def _refused(predictor: Predictor, name: str) -> RefusedVersion | None:
    refused = predictor.refused.get(name)
    return RefusedVersion(version=refused.version, reason=refused.reason, at=refused.at) if refused else None


def _features(contract: Contract) -> tuple[FeatureInfo, ...]:
    schema = contract.request.model_json_schema()
    properties: dict[str, dict[str, Any]] = schema["properties"]
    return tuple(
        FeatureInfo(
            name=field,
            type=rules.get("type"),
            description=rules.get("description"),
            minimum=rules.get("minimum", rules.get("exclusiveMinimum")),
            maximum=rules.get("maximum", rules.get("exclusiveMaximum")),
            required=field in schema.get("required", ()),
        )
        for field, rules in properties.items()
    )
