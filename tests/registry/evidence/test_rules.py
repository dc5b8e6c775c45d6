"""The rules of promotion and of the audit, each refusing; no server is asked here."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from registry.audit import AuditEntry, AuditLink, broken_links, good_versions, link_hash, rollback_targets
from registry.errors import (
    EvidenceBytesError,
    EvidenceError,
    EvidenceFailedError,
    EvidenceForeignError,
    EvidenceIncumbentError,
    EvidenceStaleError,
    EvidenceUsedError,
)
from registry.evidence.attestation import Evidence
from registry.evidence.rules import (
    PromotionContext,
    VersionRef,
    require_bytes,
    require_good,
    require_successor,
)
from registry.evidence.verdict import Incumbent
from registry.names import is_reserved

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
FILES = {"model.onnx": "a" * 64, "MLmodel": "b" * 64}
CANDIDATE = VersionRef("genre", 3, "models:/m-1")
CHAMPION = Incumbent(version=2, digest="sha256:c")
SITUATION = PromotionContext(
    incumbent=CHAMPION,
    now=NOW,
    max_age=timedelta(days=30),
    policy_digest="sha256:policy",
    used={"sha256:old"},
)
GOOD = Evidence(
    kind="gate",
    model="genre",
    version=3,
    source="models:/m-1",
    files=FILES,
    created_at=NOW - timedelta(days=1),
    passed=True,
    incumbent=CHAMPION,
    configuration={"policy": {"sha256": "policy"}},
    failed_tests=(),
    data=None,
    reason=None,
    operator=None,
    keyid="k",
    digest="sha256:new",
)


def test_good_evidence_is_let_through() -> None:
    require_good(GOOD, CANDIDATE, SITUATION)
    require_bytes(GOOD, CANDIDATE, FILES)


@pytest.mark.parametrize(
    ("changed", "error", "says"),
    [
        ({"version": 2}, EvidenceForeignError, "is about genre version 2"),
        ({"model": "energy"}, EvidenceForeignError, "is about energy version 3"),
        ({"source": "models:/m-2"}, EvidenceForeignError, "another registration of genre version 3"),
        ({"passed": False, "failed_tests": ("Drift",)}, EvidenceFailedError, "Drift failed"),
        ({"created_at": NOW - timedelta(days=31)}, EvidenceStaleError, "31 days old"),
        ({"created_at": NOW + timedelta(hours=1)}, EvidenceStaleError, "in the future"),
        ({"configuration": {"policy": {"sha256": "x"}}}, EvidenceStaleError, "another gate policy"),
        ({"configuration": {}}, EvidenceStaleError, "another gate policy"),
        ({"incumbent": None}, EvidenceIncumbentError, "no version in Production, and now version 2"),
        ({"incumbent": Incumbent(version=1, digest="sha256:c")}, EvidenceIncumbentError, "version 1"),
        ({"incumbent": Incumbent(version=2, digest="sha256:d")}, EvidenceIncumbentError, "sha256:d"),
        ({"digest": "sha256:old"}, EvidenceUsedError, "counts once"),
    ],
)
def test_whatever_is_wrong_is_refused(
    changed: Mapping[str, object], error: type[EvidenceError], says: str
) -> None:
    with pytest.raises(error, match=says):
        require_good(replace(GOOD, **changed), CANDIDATE, SITUATION)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("made", "before", "staged", "says"),
    [
        (0, None, None, None),
        (4, None, None, None),
        (6, None, None, "in the future"),
        (60, None, None, "in the future"),
        (86_400, 86_401, None, "in the future"),
        (0, -1, None, None),
        (0, 0, None, "newer evidence already"),
        (-10, 4, None, "newer evidence already"),
        (-10, 6, None, None),  # what is there counts for nothing: its clock was ahead
        (0, 86_400, None, None),
        (0, -1, GOOD.files_digest, None),
        (0, -1, "sha256:other", "renewed for the same files"),
        (0, None, "sha256:other", "renewed for the same files"),
    ],
)
def test_what_may_take_the_place_of_evidence(
    made: int, before: int | None, staged: str | None, says: str | None
) -> None:
    """Seconds from now: when the new evidence was made, and when the one that is there."""
    new = replace(GOOD, created_at=NOW + timedelta(seconds=made))
    there = None if before is None else replace(GOOD, created_at=NOW + timedelta(seconds=before))
    if says is None:
        require_successor(new, CANDIDATE, there, NOW, staged)
    else:
        with pytest.raises(EvidenceError, match=says):
            require_successor(new, CANDIDATE, there, NOW, staged)


def test_the_champion_must_be_gone_or_there_as_it_was() -> None:
    with pytest.raises(EvidenceIncumbentError, match="now no version is there"):
        require_good(GOOD, CANDIDATE, replace(SITUATION, incumbent=None))
    # From before the guard: only its number is known.
    require_good(GOOD, CANDIDATE, replace(SITUATION, incumbent=Incumbent(version=2, digest=None)))
    with pytest.raises(EvidenceIncumbentError):
        require_good(GOOD, CANDIDATE, replace(SITUATION, incumbent=Incumbent(version=1, digest=None)))


def test_a_model_outside_the_catalogue_has_no_policy_to_compare() -> None:
    require_good(GOOD, CANDIDATE, replace(SITUATION, policy_digest=None))


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({**FILES, "model.onnx": "f" * 64}, r"model\.onnx \(differs\)"),
        ({"model.onnx": "a" * 64}, r"MLmodel \(is gone\)"),
        ({**FILES, "code/extra.py": "f" * 64}, r"code/extra\.py \(was added\)"),
        ({}, "is gone"),
        ({f"{n}": "f" for n in range(9)}, "and 8 more"),
    ],
)
def test_other_bytes_are_refused(files: dict[str, str], says: str) -> None:
    with pytest.raises(EvidenceBytesError, match=says):
        require_bytes(GOOD, CANDIDATE, files)


def row(action: str, version: int, to: str | None = "Production") -> AuditEntry:
    return AuditEntry(id=1, at="", action=action, model="m", version=version, to_stage=to, actor="a")


@pytest.mark.parametrize(
    ("rows", "current", "targets"),
    [
        ([], None, []),
        ([row("promoted", 1)], 1, []),
        ([row("promoted", 1), row("promoted", 2)], 2, [1]),
        ([row("promoted", 1), row("promoted", 2), row("promoted", 3)], 3, [2, 1]),
        # What was rolled back from is not good any more.
        ([row("promoted", 1), row("promoted", 2), row("promoted", 3), row("rollback", 2)], 2, [1]),
        ([row("promoted", 1), row("promoted", 2), row("rollback", 1)], 1, []),
        # Until it is promoted again.
        ([row("promoted", 1), row("promoted", 2), row("rollback", 1), row("promoted", 2)], 2, [1]),
        # By SQL is not by right; staging, archiving and refusals are no Production.
        ([row("promoted", 1), row("sql", 2), row("promoted", 3)], 3, [1]),
        ([row("promoted", 1), row("staged", 2, "Staging"), row("refused", 3, None)], 1, []),
        ([row("promoted", 1), row("override", 2), row("promoted", 3)], 3, [2, 1]),
        # Production is empty: back to the one that was there last.
        ([row("promoted", 1), row("promoted", 2), row("archived", 2, "Archived")], None, [2, 1]),
        ([row("promoted", 1), row("promoted", 2), row("deleted", 1, None)], 2, []),
        ([row("found", 4), row("promoted", 5)], 5, [4]),
        ([row("promoted", 1), row("promoted", 2), row("promoted", 1)], 1, [2]),
    ],
)
def test_where_a_rollback_may_go(rows: list[AuditEntry], current: int | None, targets: list[int]) -> None:
    assert rollback_targets(rows, current) == targets
    assert set(targets) <= set(good_versions(rows))


def links(count: int = 5) -> list[AuditLink]:
    found: list[AuditLink] = []
    for number in range(1, count + 1):
        previous = found[-1].hash if found else ""
        body = f"{number:064d}"
        found.append(AuditLink(id=number, model="m", body=body, hash=link_hash(number, previous, body)))
    return found


def test_a_whole_chain_holds() -> None:
    assert list(broken_links(links())) == []
    assert list(broken_links([])) == []


@pytest.mark.parametrize("gone", [0, 1, 3])
def test_a_removed_row_shows(gone: int) -> None:
    chain = links()
    del chain[gone]
    assert next(iter(broken_links(chain))) == f"row {gone + 1} of the audit is missing"


def test_removed_rows_with_later_ones_numbered_anew_show() -> None:
    chain = links()
    del chain[1:3]
    moved = [link.model_copy(update={"id": n}) for n, link in enumerate(chain, start=1)]
    assert "row 2 of the audit (m) was changed, or the one before it was" in list(broken_links(moved))


@pytest.mark.parametrize("field", ["body", "hash"])
def test_a_changed_row_shows(field: str) -> None:
    chain = links()
    chain[2] = chain[2].model_copy(update={field: "f" * 64})
    assert any("row 3" in problem for problem in broken_links(chain))


@pytest.mark.parametrize(
    "key",
    [
        "greenroom.evidence",
        "Greenroom.Evidence",
        " greenroom.gate ",
        "ＧＲＥＥＮＲＯＯＭ.gate",
        "greenroom.override",
    ],
)
def test_look_alikes_of_reserved_names_are_reserved(key: str) -> None:
    assert is_reserved(key)


@pytest.mark.parametrize("key", ["greenroom.metric", "greenroom", "evidence", "greenroom.evidence.note"])
def test_other_names_are_free(key: str) -> None:
    assert not is_reserved(key)
