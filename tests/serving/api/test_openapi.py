"""The OpenAPI page is a promise, and schemathesis holds a running predictor to it.

It makes requests of the page, good ones and bad ones, always the same, and looks whether each answer is one
that the page names, in the form that the page gives it; what the page allows must be taken, and what it
forbids refused.
"""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from onnx import helper
from schemathesis import APIOperation, BaseSchema, Case, GenerationMode
from schemathesis.config import SchemathesisConfig
from schemathesis.openapi import from_url
from schemathesis.specs.openapi import checks

from catalog.spotify_tracks import FEATURES
from registry.model_format.onnx_model import Description, OnnxModel
from tests.conftest import Stack
from tests.serving.support.onnx_parts import BIAS, WEIGHTS, classifier, publish, regression
from tests.serving.support.predictor_process import Running, Start

# As many made up for each operation, beside the ones that follow from its schema one by one.
EXAMPLES = 25
CHECKS = [
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.positive_data_acceptance,
    checks.negative_data_rejection,
    checks.missing_required_header,
    checks.unsupported_method,
]
_MADE_UP = settings(
    max_examples=EXAMPLES,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
UPLOAD = "/api/upload-dataset"
NO_STORAGE = {(UPLOAD, "storage_not_configured"), ("/api/feedback", "feedback_off")}
CLASSIFIER, REGRESSION, MISSING = "schema-genre", "schema-energy", "schema-missing"
_DECLARE = """
from catalog.models.{base} import MODEL as BASE

MODEL = BASE.model_copy(update={{"name": "{name}"}})
"""


def explainable(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same model, with rows to explain it against."""
    found = OnnxModel(model.SerializeToString()).description
    rows = np.random.default_rng(3).uniform(size=(4, len(found.features))).astype(np.float32)
    described = Description(**{**found.model_dump(), "background": rows.tolist()})
    helper.set_model_props(model, described.to_metadata())
    return model


@pytest.fixture(scope="module")
def promising(start: Start, stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Running:
    """A predictor with two models in Production, and one that is declared and not served."""
    folder: Path = tmp_path_factory.mktemp("promised")
    for name, base in ((CLASSIFIER, "genre"), (REGRESSION, "energy"), (MISSING, "energy")):
        (folder / f"{name.replace('-', '_')}.py").write_text(_DECLARE.format(base=base, name=name))
    without_energy = tuple(name for name in FEATURES if name != "energy")
    publish(
        stack,
        {
            CLASSIFIER: explainable(classifier(FEATURES)),
            REGRESSION: regression(without_energy, WEIGHTS, BIAS),
        },
    )
    running = start(
        stack.tracking_url,
        GREENROOM_TRUSTED_KEYS=str(stack.home / "keys" / "trusted"),
        GREENROOM_CATALOG_PATH=str(folder),
        limits={"EXPLAIN_ROWS": 256},
    )
    running.loaded()
    return running


@pytest.fixture(scope="module")
def promise(promising: Running) -> BaseSchema:
    """The page, but for the catalogue's own models, of which there is no version here."""
    # schemathesis would not take 413 for a refusal; it is what too long a list gets, by the page.
    refusals = {"expected-statuses": ["400", "401", "404", "405", "409", "413", "415", "422", "503"]}
    config = SchemathesisConfig.from_dict({"checks": {"negative_data_rejection": refusals}})
    schema = from_url(f"{promising.url}/openapi.json", config=config)
    return schema.exclude(path_regex=r"^/api/(cluster$|similar$|(predict|explain)/(?!schema-))")


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    with requests.Session() as found:
        yield found


def operations(promise: BaseSchema) -> list[APIOperation]:
    return [result.ok() for result in promise.get_all_operations()]


def written_whole(value: Any) -> Any:
    """The same JSON, with 10 for 10.0: to JSON Schema both are integers, but the predictor takes the first.

    It does so on purpose, and the page says it: a client that sends 10.0 may send 10.5 next.
    """
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [written_whole(one) for one in value]
    if isinstance(value, dict):
        return {name: written_whole(one) for name, one in value.items()}
    return value


def hold(case: Case, session: requests.Session) -> None:
    """Send a request and hold the answer to the page; the only failures are those that are no failures."""
    answer = case.call_and_validate(session=session, checks=CHECKS, timeout=30)
    if answer.status_code >= 500:
        path, code = case.operation.path, answer.json()["error"]["code"]
        missing = path.endswith(MISSING) and code == "model_unavailable"
        no_storage = (path, code) in NO_STORAGE
        assert answer.status_code == 503, answer.text
        assert missing or no_storage, f"{path}: {answer.text}"


def test_the_page_has_what_is_served(promise: BaseSchema) -> None:
    """Or the tests below would be about nothing."""
    found = {operation.path for operation in operations(promise)}
    served = {f"/api/{what}/{name}" for what in ("predict", "explain") for name in (CLASSIFIER, REGRESSION)}
    assert served | {f"/api/predict/{MISSING}", UPLOAD, "/healthz", "/readyz", "/api/models"} <= found


@pytest.mark.parametrize("mode", GenerationMode, ids=lambda mode: mode.value)
def test_each_rule_of_the_page_by_itself(
    promise: BaseSchema, session: requests.Session, mode: GenerationMode
) -> None:
    """Each bound, type, and required field, kept and broken; wrong methods and kinds of content, too."""
    tried = 0
    for operation in operations(promise):
        for case in promise.iter_coverage_cases(
            operation, generation_modes=[mode], generation_config=promise.config.generation
        ):
            if case.media_type != "application/gzip":  # schemathesis cannot make one
                hold(case, session)
                tried += 1
    assert tried > 100


@pytest.mark.parametrize("mode", GenerationMode, ids=lambda mode: mode.value)
def test_whatever_follows_from_the_page(
    promise: BaseSchema, session: requests.Session, mode: GenerationMode
) -> None:
    """Requests that are made up, good ones and bad ones."""
    tried = []
    for operation in operations(promise):

        @_MADE_UP
        @given(case=operation.as_strategy(mode))
        def holds(case: Case) -> None:
            case.body = written_whole(case.body)
            hold(case, session)
            tried.append(case)

        with suppress(Unsatisfiable):  # nothing can be wrong where nothing is read
            holds()
    assert len(tried) > 5 * EXAMPLES
