"""The form of what a clustering and a similarity answer, for the OpenAPI page."""

from typing import Any

from pydantic import ConfigDict, Field, create_model

from serving.contracts import Contract
from serving.schemas import ClusterPrediction, ClusterPredictions


def answers(contract: Contract) -> Any:
    """Return the models of a clustering's or a similarity's answer: to one object, or to a list."""
    if contract.task == "clustering":
        return ClusterPrediction | ClusterPredictions
    return _neighbours(contract)


def _neighbours(contract: Contract) -> Any:
    config = ConfigDict(frozen=True, protected_namespaces=())
    title = contract.request.__name__.removesuffix("Features")
    texts = {str(contract.id_name): "Id of the neighbour.", **{c: f"Its {c}." for c in contract.shown}}
    fields: dict[str, Any] = {name: (str, Field(description=words)) for name, words in texts.items()}
    distance = Field(ge=0, description="How far it is, in the space of the model; 0 is the same.")
    one = create_model(f"{title}Neighbour", __config__=config, **fields, distance=(float, distance))
    found: Any = (list[one], Field(description="The nearest first."))
    row = create_model(f"{title}Row", __config__=config, neighbours=found)
    about: dict[str, Any] = {
        name: (field.annotation, Field(description=field.description))
        for name, field in ClusterPrediction.model_fields.items()
        if name in ("id", "model", "version")
    }
    single = create_model(f"{title}Answer", __config__=config, **about, neighbours=found)
    rows: Any = (list[row], Field(description="One answer for each object, in their order."))
    return single | create_model(f"{title}Answers", __config__=config, **about, predictions=rows)
