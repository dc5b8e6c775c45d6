"""Monitoring on real parts: the predictor's own log in the bucket, DeepChecks, MLflow, Prefect's events."""

import json
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient

from catalog.loader import get_model
from catalog.spotify_tracks import FEATURES as GENRE_FEATURES
from checks.data import sources
from checks.frames import from_parquet, to_parquet
from registry.client.registry import Registry
from registry.client.tracking_client import TrackingClient
from registry.names import Stage
from registry.settings import RegistrySettings
from tests.conftest import ROOT, Stack
from tests.flows.support.tumour_rows import tumours
from tests.receivers import http_receiver
from tests.serving.support.scraped import Scraped
from tests.stack_predictor import own_predictor
from tests.waiting import until
from tests.warm_commands import warm_python

SUPPORT = ROOT / "tests" / "flows" / "support"
FEATURES = ["radius", "texture", "smoothness", "concavity"]
# In the order of time; each story begins where the one before ended.
ROWS = 400


@dataclass
class Served:
    """A stack with a predictor that serves the toy model, and a way to ask it."""

    stack: Stack
    folder: Path
    # The predictor's.
    home: Path
    url: str = ""

    @property
    def environment(self) -> dict[str, str]:
        return {
            "GREENROOM_CATALOG_PATH": str(self.folder),
            "GREENROOM_SERVING_LOG_SECONDS": "0.5",
            "GREENROOM_MONITOR_TEXTFILES": str(self.folder / "textfiles"),
        }

    def greenroom(self, *arguments: str, repeat_hours: float = 24.0, **variables: str) -> Any:
        limits = {"MIN_ROWS": 300, "MIN_FEEDBACK": 100, "REPEAT_HOURS": repeat_hours}
        settings = "flows.monitoring.settings.MonitorSettings"
        return self.stack.greenroom(
            *arguments,
            constants={f"{settings}.{name}": value for name, value in limits.items()},
            **{**self.environment, **variables},
        )

    def written(self) -> float:
        """How many predictions and outcomes are on the disk, or were sent from there."""
        metrics = Scraped(httpx.get(f"{self.url}/metrics", timeout=60).text)
        return metrics.get("greenroom_prediction_log_rows_total")

    def ask(
        self,
        rows: pd.DataFrame,
        outcomes: list[str] | None = None,
        *,
        model: str = "tumour",
        features: Sequence[str] = FEATURES,
    ) -> None:
        """Ask for predictions, and wait until the log has them."""
        before = self.written()
        asked = rows[list(features)].to_dict("records")
        answer = httpx.post(f"{self.url}/api/predict/{model}", json=asked, timeout=60)
        assert answer.status_code == 200, answer.text
        wanted = before + len(rows) + len(outcomes or ())
        if outcomes is not None:
            said = [{"id": answer.json()["id"], "row": n, "outcome": o} for n, o in enumerate(outcomes)]
            assert httpx.post(f"{self.url}/api/feedback", json=said, timeout=60).is_success
        spool = self.home / "serving-spool"
        until(lambda: self.written() >= wanted, "the log was not written")
        until(lambda: not list(spool.rglob("*.parquet")), "the log was not sent")


def now() -> str:
    time.sleep(1.1)  # whole seconds are what the option takes
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime())


@pytest.fixture(scope="module")
def served(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("models")
    shutil.copy(SUPPORT / "tumours.py", folder)
    tumours().to_parquet(folder / "tumours.parquet")
    shutil.copy(SUPPORT / "sounds.py", folder)
    tracks().to_parquet(folder / "tracks.parquet")
    found = Served(stack, folder, tmp_path_factory.mktemp("predictor") / "home")
    done = found.greenroom("train", "tumour", "sounds", "--promote")
    assert done.returncode == 0, done.stdout + done.stderr
    with own_predictor(stack, found.home, ("tumour", "sounds"), **found.environment) as found.url:
        yield found


def tracks() -> pd.DataFrame:
    return sources.read_table(get_model("genre").dataset)


def like_the_training(count: int) -> pd.DataFrame:
    return tumours().sample(count, replace=True, random_state=3)


def runs(served: Served) -> list[Any]:
    client = MlflowClient(served.stack.tracking_url)
    experiment = client.get_experiment_by_name("monitoring")
    if experiment is None:
        return []
    return list(client.search_runs([experiment.experiment_id], "tags.`greenroom.model` = 'tumour'"))


def drift_events(served: Served) -> list[Any]:
    of_the_model = {"id": ["greenroom.model.tumour"]}
    query = {"filter": {"event": {"name": ["greenroom.drift"]}, "resource": of_the_model}}
    url = f"{served.stack.prefect_url}/api/events/filter"
    answer = httpx.post(url, json=query, auth=served.stack.prefect_login)
    assert answer.is_success, answer.text
    events: list[Any] = answer.json()["events"]
    return events


def test_too_few_rows_are_said_and_not_judged(served: Served) -> None:
    since = now()
    served.ask(like_the_training(20).assign(radius=50.0))
    done = served.greenroom("monitor", "tumour", "sounds", "--since", since)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "too few rows; 20 predictions" in done.stdout
    assert "sounds: too few rows; 0 predictions" in done.stdout
    assert "at least 300 are needed" in done.stdout
    assert runs(served)[0].data.tags["greenroom.monitor"] == "too few rows"
    assert drift_events(served) == []


def test_traffic_like_the_training_is_no_drift_and_feedback_is_scored(served: Served) -> None:
    since, rows = now(), like_the_training(ROWS)
    served.ask(rows, rows["diagnosis"].tolist())
    done = served.greenroom("monitor", "tumour", "--since", since)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"ok; {ROWS} predictions" in done.stdout
    run = runs(served)[0]
    assert run.data.tags["greenroom.role"] == "monitoring"
    assert set(run.data.metrics) >= {*(f"drift.{name}" for name in FEATURES), "prediction_drift", "score"}
    assert run.data.metrics["feature_drift"] < 0.16
    assert run.data.metrics["score_low"] <= run.data.metrics["score"] <= run.data.metrics["score_high"]
    assert 0.8 < run.data.metrics["score"] <= 1
    client = MlflowClient(served.stack.tracking_url)
    assert "drift/drift.html" in [file.path for file in client.list_artifacts(run.info.run_id, "drift")]
    gauges = (served.folder / "textfiles" / "greenroom_monitor_tumour.prom").read_text()
    assert (
        f'greenroom_monitor_rows{{model="tumour",version="{run.data.tags["greenroom.version"]}"}}' in gauges
    )
    assert 'feature="radius"' in gauges
    assert drift_events(served) == []


def test_rows_that_somebody_planted_are_no_reference(served: Served) -> None:
    """A run can be written to: other rows there would start a retraining, or hide that one is needed."""
    since = now()
    served.ask(like_the_training(ROWS))
    with TrackingClient(RegistrySettings(tracking_uri=served.stack.tracking_url)) as client:
        registry = Registry(client)
        version = registry.in_stage("tumour", Stage.PRODUCTION)
        assert version is not None
        stored = registry.artifact(version, "gate/train.parquet")
        other = to_parquet(from_parquet(stored).assign(radius=50.0))
        for planted in (other, b"no table"):
            registry.put_artifact(version, "gate/train.parquet", planted)
            try:
                done = served.greenroom("monitor", "tumour", "--since", since)
            finally:
                registry.put_artifact(version, "gate/train.parquet", stored)
            assert done.returncode == 2, done.stdout + done.stderr
            assert "no reference; " in done.stdout
            sentence = f"is not the rows that its evidence names. `greenroom gate tumour {version.number}"
            assert sentence in " ".join(done.stdout.split())
    assert drift_events(served) == []
    assert served.greenroom("monitor", "tumour", "--since", since).returncode == 0


def test_wrong_answers_are_found_by_feedback_alone(served: Served) -> None:
    """The rows look as ever, and what comes true is another thing: no drift score could see that."""
    since, rows = now(), like_the_training(ROWS)
    served.ask(rows, np.random.default_rng(1).permutation(rows["diagnosis"]).tolist())
    done = served.greenroom("monitor", "tumour", "--since", since, repeat_hours=0)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "balanced_accuracy is" in done.stdout
    assert "FeatureDrift" not in done.stdout


def test_shifted_traffic_is_drift_told_once(served: Served) -> None:
    since = now()
    served.ask(like_the_training(ROWS).assign(texture=lambda rows: (rows["texture"] + 6).clip(upper=39)))
    with http_receiver() as receiver:
        variables = {
            "GREENROOM_NOTIFY_URLS": f"json://127.0.0.1:{receiver.port}",
            "GREENROOM_NOTIFY_EVENTS": "drift",
        }
        # Whatever an earlier test told of the same version is long ago.
        first = served.greenroom("monitor", "tumour", "--since", since, **variables, repeat_hours=0)
        again = served.greenroom("monitor", "tumour", "--since", since, **variables)
        assert (first.returncode, again.returncode) == (1, 1), first.stdout + first.stderr
        assert "FeatureDrift: texture" in first.stdout
        version = runs(served)[0].data.tags["greenroom.version"]
        assert receiver.titles == [f"Greenroom: tumour version {version} drifts"]
        assert "texture" in receiver.bodies[0]["message"]

    def texture_events() -> list[Any]:
        """Events about this feature: an earlier test's event, about the score, may come late."""
        return [event for event in drift_events(served) if "texture" in event["payload"]["reasons"][0]]

    until(lambda: len(texture_events()) > 0)
    assert len(texture_events()) == 1


def test_story_of_drift_and_a_new_version(served: Served) -> None:
    """People turn to metal: it is told. A training on spoiled labels is refused, a good one reaches Staging.

    (test_retrain_deployed.py has the event starting such a training, and a worker bringing it to its end.)
    """
    since, table, good = now(), served.folder / "tracks.parquet", tracks()
    metal = good["track_genre"] == "metal"
    asked = pd.concat([good[metal].sample(320, random_state=5), good[~metal].sample(80, random_state=5)])
    served.ask(asked, model="sounds", features=GENRE_FEATURES)

    def retrain_twice(then: Path, variables: dict[str, str]) -> None:
        """On the table as it is, and on `then` in its place."""
        code = (
            "import os; from flows.environment import prepare_environment; "
            "from flows.settings import FlowSettings; prepare_environment(FlowSettings()); "
            "from flows.monitoring.retrain import retrain; retrain('sounds'); "
            f"os.replace({str(then)!r}, {str(table)!r}); retrain('sounds')"
        )
        done = subprocess.run(
            [str(warm_python()), "-c", code],
            env={**served.stack.environment, **served.environment, **variables},
            capture_output=True,
            text=True,
            timeout=580,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    with http_receiver() as receiver:
        told = {
            "GREENROOM_NOTIFY_URLS": f"json://127.0.0.1:{receiver.port}",
            "GREENROOM_NOTIFY_EVENTS": "drift,refused,promoted,rolled-back,failed",
        }
        done = served.greenroom("monitor", "sounds", "--since", since, **told)
        assert done.returncode == 1, done.stdout + done.stderr
        assert "PredictionDrift" in done.stdout
        client = MlflowClient(served.stack.tracking_url)
        mended = served.folder / "mended"
        good.to_parquet(mended)
        spoiled = good["track_genre"].to_numpy()[np.random.default_rng(2).permutation(len(good))]
        good.assign(track_genre=spoiled).to_parquet(table)
        retrain_twice(mended, told)
        stages = {int(v.version): v.current_stage for v in client.search_model_versions("name = 'sounds'")}
        assert stages == {1: "Production", 2: "None", 3: "Staging"}
        done = served.greenroom("promote", "sounds", "3", "--reason", "It has seen more", **told)
        assert done.returncode == 0, done.stdout + done.stderr
        assert receiver.titles == [
            "Greenroom: sounds version 1 drifts",
            "Greenroom: sounds version 2 was refused",
            "Greenroom: sounds version 3 is in Staging",
            "Greenroom: sounds version 3 is in Production",
        ]
    url = f"{served.url}/api/predict/sounds"
    track = good[list(GENRE_FEATURES)].iloc[0].to_dict()
    until(lambda: httpx.post(url, json=track, timeout=60).json()["version"] == 3)
    history = json.loads(served.greenroom("history", "sounds", "--json").stdout)
    moves = [(row["version"], row["action"], row.get("reason")) for row in history]
    assert [one for one in moves if one[0] == 3] == [
        (3, "staged", "Trained because of drift"),
        (3, "promoted", "It has seen more"),
    ], moves
