"""The guard, met by somebody who moves versions with the mouse, in MLflow's own pages."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.common.exceptions import (
    ElementClickInterceptedException,
    ElementNotInteractableException,
    StaleElementReferenceException,
)
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from registry.client import audit_log
from registry.client.registry import Version
from registry.client.tracking_client import TrackingClient
from registry.names import Stage
from tests.conftest import Stack
from tests.registry.support.registered import Registrar

pytestmark = pytest.mark.slow

SWITCH = "button[role=switch][aria-label='New model registry UI']"
DIALOG = "[role=dialog]"
STAGE = ".mlflow-stage-transition-dropdown"
TOAST = "[role=alert]"
TRANSITION = "/ajax-api/2.0/mlflow/model-versions/transition-stage"
# The page redraws and animates itself: what fails so is tried again.
MOVING = (ElementClickInterceptedException, ElementNotInteractableException, StaleElementReferenceException)


class VersionPage:
    """The page of one version, as a person sees and uses it, with the stage menu switched on."""

    def __init__(self, browser: webdriver.Chrome, stack: Stack, version: Version) -> None:
        self._browser = browser
        # Often, because a toast is there for three seconds only.
        self._wait = WebDriverWait(browser, 60, poll_frequency=0.1, ignored_exceptions=MOVING)
        browser.get(f"{stack.tracking_url}/#/models/{version.model}/versions/{version.number}")
        self.sees("h1, h2", f"Version {version.number}")
        # The new registry UI is on by default, and has no such menu.
        self.click(SWITCH)
        self.click(f"{DIALOG} button", "Disable")
        self._wait.until(lambda _: not self._shown(DIALOG), "the dialog stays")

    def choose(self, stage: str, *, archive: bool = False) -> None:
        """Choose a stage in the menu and confirm; `archive` ticks the box about existing versions."""
        self.click(STAGE)
        self.click("[role=menuitem]", stage)
        self.sees(DIALOG, "Stage transition")
        if archive:
            self.click(f"{DIALOG} label", "Transition existing")
        self.click(f"{DIALOG} button", "OK")

    def sees(self, selector: str, text: str) -> str:
        """Wait until something with a text is there to be seen; return all of its text."""
        return str(self._wait.until(lambda _: self._read(selector, text), f"{selector} with {text!r}"))

    def click(self, selector: str, text: str = "") -> None:
        """Click on something as soon as it can be clicked on."""
        self._wait.until(lambda _: self._clicked(selector, text), f"{selector} with {text!r}")

    def transitions(self) -> list[dict[str, Any]]:
        """Return what the page has asked the server to move, as the browser sent it."""
        log = self._browser.get_log("performance")  # type: ignore[no-untyped-call]
        messages = [json.loads(entry["message"])["message"] for entry in log]
        requests = [m["params"]["request"] for m in messages if m["method"] == "Network.requestWillBeSent"]
        return [json.loads(r["postData"]) for r in requests if r["url"].endswith(TRANSITION)]

    def _read(self, selector: str, text: str) -> str | None:
        return next((e.text for e in self._shown(selector) if text in e.text), None)

    def _clicked(self, selector: str, text: str) -> bool:
        for element in self._shown(selector):
            if text in element.text:
                element.click()
                return True
        return False

    def _shown(self, selector: str) -> list[WebElement]:
        return [e for e in self._browser.find_elements("css selector", selector) if e.is_displayed()]


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[webdriver.Chrome]:
    """Chromium as Debian ships it, which writes down what it sends."""
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not program or not driver:
        pytest.skip("needs chromium and chromedriver on this machine")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in (
        *("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-quic"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
        *(f"--user-data-dir={tmp_path / 'chromium'}", "--window-size=1280,943"),
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    found = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        yield found
    finally:
        found.quit()


def stages(registrar: Registrar) -> dict[int, Stage]:
    return {version.number: version.stage for version in registrar.registry.versions(registrar.name)}


@pytest.mark.parametrize("stage", ["Production", "Staging"])
def test_a_version_without_evidence_is_refused_and_the_person_reads_why(
    stack: Stack, registrar: Registrar, client: TrackingClient, browser: webdriver.Chrome, stage: str
) -> None:
    version = registrar.version()
    page = VersionPage(browser, stack, version)
    page.choose(stage)
    toast = page.sees(TOAST, "Greenroom")
    assert f"Greenroom refused: {version} has no evidence of the gate." in toast
    assert f"greenroom gate {version.model} {version.number} --rerun" in toast
    assert [asked["stage"] for asked in page.transitions()] == [stage]

    assert page.sees(STAGE, "") == "None"
    assert stages(registrar) == {version.number: Stage.NONE}
    rows = audit_log.history(client, registrar.name)
    assert [(row.action, row.version, row.code) for row in rows] == [("refused", version.number, "missing")]


@pytest.mark.parametrize("archive", [False, True])
def test_a_version_with_evidence_moves_and_takes_the_place_of_the_one_before(
    stack: Stack, registrar: Registrar, client: TrackingClient, browser: webdriver.Chrome, archive: bool
) -> None:
    """Whatever the box says that should archive the version before: two in Production there never are."""
    before, version = registrar.in_production(), registrar.good()
    page = VersionPage(browser, stack, version)
    page.choose("Production", archive=archive)
    page.sees(STAGE, "Production")
    asked = [(t["version"], t["stage"], t["archive_existing_versions"]) for t in page.transitions()]
    assert asked == [(str(version.number), "Production", archive)]

    assert stages(registrar) == {before.number: Stage.ARCHIVED, version.number: Stage.PRODUCTION}
    rows = [row for row in audit_log.history(client, registrar.name) if row.version == version.number]
    (promoted,) = [row for row in rows if row.action == "promoted"]
    assert (promoted.from_stage, promoted.to_stage) == ("None", "Production")
    assert promoted.incumbent == before.number
    assert promoted.evidence
    assert not [row for row in rows if row.action in ("refused", "sql")]
