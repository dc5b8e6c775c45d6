"""What the answers of all tasks have in common. Each class appears in the OpenAPI page as it stands here."""

from pydantic import BaseModel, ConfigDict, Field

# `model` is this domain's word; Pydantic would keep the prefix `model_` for itself.
RESPONSE_CONFIG = ConfigDict(frozen=True, protected_namespaces=())
_FOR_FEEDBACK = "Names this prediction (a UUID); POST /api/feedback takes it with the true outcome."


class Response(BaseModel):
    """Base of everything that is answered."""

    model_config = RESPONSE_CONFIG


class ModelResponse(Response):
    """An answer of one version."""

    id: str = Field(description="Names this answer (a UUID).")
    model: str = Field(description="Name of the model.")
    version: int = Field(description="Version in the registry that gave this answer.")


class ModelListResponse(Response):
    """An answer of one version to a list."""

    id: str = Field(description="Names this answer (a UUID).")
    model: str = Field(description="Name of the model.")
    version: int = Field(description="Version in the registry that gave all of these answers.")


class SupervisedResponse(ModelResponse):
    """An answer that may turn out right or wrong."""

    id: str = Field(description=_FOR_FEEDBACK)


class SupervisedListResponse(ModelListResponse):
    """An answer to a list, each part of which may turn out right or wrong."""

    id: str = Field(description=_FOR_FEEDBACK)
