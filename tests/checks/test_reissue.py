"""`greenroom keys reissue`: what a retired key signed is judged again and signed anew, where it is."""

from collections.abc import Callable
from typing import Any

import pytest
from click.testing import CliRunner, Result

from registry.cli import keys as keys_cli
from registry.client.registry import Registry, Version
from registry.client.standing import without_standing
from registry.errors import RegistryUnavailableError
from registry.evidence import keys
from registry.names import DATASET, EVIDENCE
from registry.settings import KeySettings
from tests.checks.support.sample_models import StandIn
from tests.checks.test_cli import FAILED, MemoryClient, add, client  # noqa: F401 - fixtures

Add = Callable[..., Version]


@pytest.fixture
def staged(client: MemoryClient, monkeypatch: pytest.MonkeyPatch) -> MemoryClient:  # noqa: F811
    """Version 1 in Production, on a key that was retired; another one signs now."""
    monkeypatch.setattr(keys_cli, "TrackingClient", client)
    client.found[1]["current_stage"] = "Production"
    keys.create("gate", KeySettings(), replace=True)
    old = Registry(client).version("energy", 1).tags[EVIDENCE]  # type: ignore[arg-type]
    assert old
    return client


def retire_old() -> Result:
    now = keys.signer("gate", KeySettings()).public_key.keyid
    old = next(key for key in keys.trusted("gate", KeySettings()) if key.keyid != now)
    return CliRunner().invoke(keys_cli.keys, ["retire", old.keyid])


def reissue(*arguments: str) -> Result:
    return CliRunner().invoke(keys_cli.keys, ["reissue", *arguments])


def standing(client: MemoryClient) -> list[Any]:  # noqa: F811
    return list(without_standing(Registry(client).staged_versions(), KeySettings()))  # type: ignore[arg-type]


def test_nothing_to_do(staged: MemoryClient) -> None:
    done = reissue()
    assert (done.exit_code, done.output) == (0, "Everything in a stage has evidence that counts.\n")


def test_retire_says_what_stands_on_the_key(staged: MemoryClient) -> None:
    done = retire_old()
    assert done.exit_code == 0, done.output
    for text in (
        "energy version 1 in Production stands on the gate key",
        "retired on",
        "greenroom keys reissue",
    ):
        assert text in done.output


def test_retire_without_a_server(staged: MemoryClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone() -> None:
        raise RegistryUnavailableError("It does not answer.")

    monkeypatch.setattr(keys_cli, "TrackingClient", gone)
    done = retire_old()
    assert done.exit_code == 0
    assert "cannot be told now; `greenroom verify` tells" in done.output


def test_it_is_judged_again_and_signed_anew_in_its_stage(staged: MemoryClient) -> None:
    retire_old()
    assert [s.version.number for s in standing(staged)] == [1]
    done = reissue("--dry-run")
    assert "energy version 1 in Production stands on the gate key" in done.output
    assert [s.version.number for s in standing(staged)] == [1]
    before = Registry(staged).version("energy", 1).tags[EVIDENCE]  # type: ignore[arg-type]
    done = reissue("energy")
    assert done.exit_code == 0, done.output
    assert standing(staged) == []
    version = Registry(staged).version("energy", 1)  # type: ignore[arg-type]
    assert version.stage == "Production"
    assert version.tags[EVIDENCE] != before
    assert reissue("other").exit_code == 0


def test_what_the_gate_refuses_now_keeps_its_place_and_is_told(
    staged: MemoryClient, stand_in: StandIn
) -> None:
    retire_old()
    stand_in(FAILED)
    done = reissue()
    assert done.exit_code == 1, done.output
    assert "energy version 1 in Production has no evidence that counts" in done.output
    assert Registry(staged).version("energy", 1).stage == "Production"  # type: ignore[arg-type]


def test_what_cannot_be_judged_is_told(staged: MemoryClient) -> None:
    retire_old()
    for version in staged.found.values():  # the table is another one since
        version["tags"].append({"key": DATASET, "value": "sha256:" + "0" * 64})
    done = reissue()
    assert done.exit_code == 1
    assert "changed since" in done.output
    assert "has no evidence that counts" in done.output
