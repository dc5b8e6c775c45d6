"""What an explanation looks like. Each class appears in the OpenAPI page as it stands here."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Method = Literal["shapley_exact", "shapley_permutations"]


class Contribution(BaseModel):
    """What one feature contributes to a prediction."""

    model_config = ConfigDict(frozen=True)

    feature: str
    value: float = Field(description="The value that the model read; booleans are 0 and 1.")
    contribution: float = Field(
        description="Shapley value, in the unit of the explained number: how far this feature moves it from "
        "the base value, on average over the orders in which features can become known."
    )
    standard_error: float = Field(
        description="Standard error of `contribution` from sampling; 0 when every coalition was counted. "
        "What another background would say is not in it."
    )


class Explanation(BaseModel):
    """What the explanations of all tasks have in common."""

    # `model` is this domain's word; Pydantic would keep the prefix `model_` for itself.
    model_config = ConfigDict(frozen=True, protected_namespaces=())

    model: str = Field(description="Name of the model.")
    version: int = Field(description="Version in the registry that is explained.")
    method: Method = Field(
        description="`shapley_exact` counts every coalition of features; `shapley_permutations` samples "
        "orders of them."
    )
    base_value: float = Field(
        description="Mean of the explained number over the background. The base value and all contributions "
        "add up to the explained number."
    )
    contributions: tuple[Contribution, ...] = Field(description="One per feature, the largest first.")
    background_rows: int = Field(description="Training rows that it is explained against.")
    rows_evaluated: int = Field(description="Rows that the model answered for this.")
