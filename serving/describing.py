"""Says what is served, for people and for orchestrators."""

from typing import Any

from serving.predictor import Predictor, Served
from serving.schemas import FeatureInfo, ModelInfo, ModelReadiness, Readiness


def model_info(predictor: Predictor, name: str) -> ModelInfo:
    """Return what there is to know of one model of the catalogue."""
    spec, state = predictor.specs[name], predictor.states[name]
    served = state if isinstance(state, Served) else None
    return ModelInfo(
        name=name,
        description=spec.description,
        task=spec.task,
        unit=spec.unit,
        features=_features(predictor, name),
        classes=(served.model.description.classes or None) if served else None,
        status="serving" if served else "unavailable",
        reason=None if isinstance(state, Served) else state.reason,
        version=served.version if served else None,
        digest=served.model.digest if served else None,
        loaded_at=served.loaded_at if served else None,
    )


def readiness(predictor: Predictor) -> Readiness:
    """Return which models are served; ready means at least one."""
    models = {
        name: ModelReadiness(status="serving", version=state.version)
        if isinstance(state, Served)
        else ModelReadiness(status="unavailable", reason=state.reason)
        for name, state in predictor.states.items()
    }
    ready = any(model.status == "serving" for model in models.values())
    return Readiness(status="ready" if ready else "not_ready", models=models)


def _features(predictor: Predictor, name: str) -> tuple[FeatureInfo, ...]:
    schema = predictor.requests[name].model_json_schema()
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
