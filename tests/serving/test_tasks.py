"""A fifth task is one class and one registration: it is served, described and logged like the others."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import pytest
from pydantic import BaseModel, Field

from catalog.tasks import task_names
from registry.model_format.onnx_model import Description, Rows
from serving.app import PredictorApp, create_app
from serving.inference.predictor import PredictionRecord, Served
from serving.recording.recorder import _predictions
from serving.settings import ServingSettings
from serving.tasks.base import Column, Contract, ModelOutputs, ServingTask
from serving.tasks.registry import TASKS
from tests.serving.support.scraped import Scraped


class Forecast(BaseModel):
    """Toy answer."""

    low: float
    high: float


class Forecasting(ServingTask):
    """A toy: between which two numbers a row's outcome will be."""

    name = "forecasting"  # type: ignore[assignment]
    path = "/api/forecast"
    summary = "See what comes"
    words = "What comes? {description}"
    unexplained = "Nobody explains the future."

    def check(
        self, labels: npt.NDArray[Any], shares: npt.NDArray[np.float32] | None, description: Description
    ) -> ModelOutputs:
        if not np.isfinite(labels).all():
            raise ValueError("it foresees no number")
        return ModelOutputs(labels, None)

    def row(self, outputs: ModelOutputs, place: int) -> dict[str, Any]:
        return {"low": outputs.labels[place] - 1, "high": outputs.labels[place] + 1}

    def columns(self, outputs: Sequence[ModelOutputs]) -> dict[str, Column]:
        return {"prediction": np.concatenate([part.labels for part in outputs])}

    def response_models(self, contract: Contract) -> Any:
        return Forecast


class Request(BaseModel, extra="forbid", strict=True):
    """What the toy reads."""

    today: float = Field(allow_inf_nan=False)


class Doubles:
    """A model of the toy task."""

    description = Description.model_construct(
        task="forecasting",  # type: ignore[arg-type]
        features=("today",),
        classes=(),
        background=(),
        items=None,
    )
    digest = "sha256:" + "0" * 64

    def predict(self, rows: Rows) -> tuple[npt.NDArray[np.generic], None]:
        return rows[:, 0] * 2, None


@pytest.fixture
def records() -> list[PredictionRecord]:
    return []


@pytest.fixture
def app(records: list[PredictionRecord], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PredictorApp:
    monkeypatch.setenv("GREENROOM_HOME", str(tmp_path))
    monkeypatch.setitem(TASKS, "forecasting", Forecasting())
    app = create_app(ServingSettings())
    app.predictor.record = records.append
    contract = Contract(
        name="weather",
        description="The weather.",
        task="forecasting",  # type: ignore[arg-type]
        target=None,
        unit=None,
        request=Request,
        attributes={"today": "today"},
    )
    app.predictor.swap("weather", Served(7, Doubles(), datetime.now(UTC), contract=contract))
    return app


def ask(app: PredictorApp, method: str, path: str, body: Any = None) -> httpx.Response:
    async def once() -> httpx.Response:
        transport = httpx.ASGITransport(app.asgi)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return await client.request(method, path, json=body)

    return asyncio.run(once())


def test_a_fifth_task_is_a_class_and_a_registration(
    app: PredictorApp, records: list[PredictionRecord]
) -> None:
    for path in ("/api/predict/weather", "/api/forecast", "/api/forecast?model=weather"):
        got = ask(app, "POST", path, {"today": 3.5})
        assert got.status_code == 200, got.text
        assert {name: got.json()[name] for name in ("model", "version", "low", "high")} == {
            "model": "weather",
            "version": 7,
            "low": 6.0,
            "high": 8.0,
        }
    several = ask(app, "POST", "/api/forecast", [{"today": 1.0}, {"today": 2.0}]).json()["predictions"]
    assert several == [{"low": 1.0, "high": 3.0}, {"low": 3.0, "high": 5.0}]

    refused = ask(app, "POST", "/api/forecast", {"yesterday": 1.0})
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "invalid_input")
    assert ask(app, "GET", "/api/forecast").status_code == 405
    explained = ask(app, "POST", "/api/explain/weather", {"today": 1.0})
    assert (explained.status_code, explained.json()["error"]["code"]) == (409, "not_explainable")
    assert "Nobody explains the future." in explained.json()["error"]["message"]

    page = ask(app, "GET", "/openapi.json").json()
    assert page["paths"]["/api/forecast"]["post"]["summary"] == "See what comes"
    assert "Forecast" in page["components"]["schemas"]
    assert "/api/explain/weather" not in page["paths"]
    # No watcher has put it there, so that its name is no label.
    metrics = Scraped(ask(app, "GET", "/metrics").text)
    assert metrics.get("greenroom_requests_total", model="(unknown)", key="(none)") == 6

    table = _predictions(records[-1:]).to_pylist()
    assert [(row["input_today"], row["prediction"], row["version"]) for row in table] == [
        (1.0, 2.0, 7),
        (2.0, 4.0, 7),
    ]


def test_every_task_of_the_catalogue_is_served() -> None:
    assert set(task_names()) == set(TASKS)
