"""What an explanation looks like. Each class appears in the OpenAPI page as it stands here."""

from pydantic import BaseModel, ConfigDict, Field

from serving.inference.shapley import Method


class Contribution(BaseModel):
    """What one feature contributes to a prediction."""

    model_config = ConfigDict(frozen=True)

    feature: str
    value: float = Field(description="The value that the model read; booleans are 0 and 1.")
    contribution: float = Field(
        description="Shapley value, in the unit of what is explained: how far this feature moves it from the "
        "base value, on average over the orders in which features can become known."
    )
    standard_error: float = Field(
        description="Standard error of `contribution` from sampling; 0 when every coalition was counted. "
        "What another background would say is not in it."
    )


class _Explanation(BaseModel):
    # `model` is this domain's word; Pydantic would keep the prefix `model_` for itself.
    model_config = ConfigDict(frozen=True, protected_namespaces=())

    model: str = Field(description="Name of the model.")
    version: int = Field(description="Version in the registry that is explained.")
    method: Method = Field(
        description="`shapley_exact` counts every coalition of features; `shapley_permutations` samples "
        "orders of them."
    )
    base_value: float = Field(
        description="Mean of what is explained over the background. The base value and all contributions add "
        "up to what is explained."
    )
    contributions: tuple[Contribution, ...] = Field(description="One per feature, the largest first.")
    background_rows: int = Field(description="Training rows that it is explained against.")
    rows_evaluated: int = Field(description="Rows that the model answered for this.")


class ClassExplanation(_Explanation):
    """Why a classifier gives its class the probability that it does."""

    prediction: str = Field(description="The predicted class.")
    probability: float = Field(description="Its probability, 0..1: this is what is explained.")


class NumberExplanation(_Explanation):
    """Why a regression answers what it does."""

    prediction: float = Field(description="The predicted number: this is what is explained.")


Explanation = ClassExplanation | NumberExplanation
