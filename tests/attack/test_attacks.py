"""A seeded share of every way to attack, on the session's stack; `make attack` runs all of them."""

from collections import Counter
from collections.abc import Iterator

import pytest

from bench.attack import honest
from bench.attack.__main__ import KINDS, all_ways, sample
from bench.attack.runner import Runner
from bench.attack.servers import login_server, store_with_users
from bench.attack.target import LOCAL, OPERATOR, Answer, Target
from bench.attack.ways import DETECTED, PREVENTED, Act, Attempt, Detector, Kind, Outcome, Way
from tests.conftest import Stack
from tests.evidence import key_settings
from tests.gate_server import SESSION_GATE

SHARE, SEED = 0.1, 20261129
FEWEST = 600


@pytest.fixture(scope="module")
def target(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """The session's stack, with a model of its own, accounts, and a store with users."""
    key_settings(stack)
    found = Target(stack.home, stack.ports, gate=SESSION_GATE.url)
    with pytest.MonkeyPatch.context() as patch:
        # What `verify` remembers is not the stack's.
        patch.setenv("GREENROOM_HOME", str(tmp_path_factory.mktemp("home")))
        honest.prepare(found)
        folder = tmp_path_factory.mktemp("attack")
        with login_server(found, folder), store_with_users(tmp_path_factory.mktemp("users")) as users:
            found.s3_users = users
            yield found
    found.close()


SHARED = [kind for kind in KINDS if not kind.whole]


@pytest.mark.parametrize("kind", SHARED, ids=lambda kind: kind.name)
def test_no_way_slips_through(target: Target, kind: Kind) -> None:
    slipped = Runner(target).run(sample(kind, SHARE, SEED))
    assert not slipped, "\n".join(f"{result.way.id}: {result.why}" for result in slipped)


def test_there_are_enough_of_them_and_each_has_a_name_of_its_own() -> None:
    ways = list(all_ways())
    assert len(ways) >= FEWEST
    assert [name for name, count in Counter(way.id for way in ways).items() if count > 1] == []
    assert {way.kind for way in ways} == {kind.name for kind in KINDS}
    assert [way.id for way in ways if (way.outcome == DETECTED) != bool(way.by)] == []


def test_a_share_has_every_account_of_every_kind() -> None:
    for kind in KINDS:
        ways = sample(kind, SHARE, SEED)
        assert {way.account for way in ways} == {way.account for way in kind.ways()}
        assert [way.id for way in ways] == [way.id for way in sample(kind, SHARE, SEED)]
    assert sum(len(sample(kind, SHARE, SEED)) for kind in SHARED) >= FEWEST / 10


def way(act: Act, outcome: Outcome = PREVENTED, by: Detector = "") -> Way:
    return Way("a test", LOCAL, "a test", act, outcome, by)


# What the runner must see


def test_an_answer_of_success_has_slipped(target: Target) -> None:
    (result,) = Runner(target).run([way(lambda _: Answer(200, "welcome"))])
    assert (result.outcome, result.why) == ("slipped", "answered 200: welcome")
    (result,) = Runner(target).run([way(lambda _: Answer(0, "no answer"))])
    assert result.outcome == "slipped"
    assert not Runner(target).run([way(lambda _: Answer(500, "an error"))])


def test_a_secret_in_a_refusal_has_slipped(target: Target) -> None:
    private = (target.home / "keys" / "gate.pem").read_text().splitlines()[1]
    new = '{"signatures": [{"keyid": "x", "sig": "' + "A" * 86 + '=="}]}'
    for text in (
        private,
        target.settings["GREENROOM_PREFECT_PASSWORD"],
        target.passwords[OPERATOR],
        new,
    ):
        (result,) = Runner(target).run([way(lambda _, said=text: Answer(403, f"no: {said}"))])  # type: ignore[misc]
        assert "the answer holds" in result.why
    assert not Runner(target).run([way(lambda t: Answer(403, t.places["evidence1"]))])


def test_a_change_has_slipped_whatever_was_answered(target: Target) -> None:
    def change(target: Target) -> Answer:
        target.rows(
            "INSERT INTO registered_model_tags (workspace, name, key, value) "
            "VALUES ('default', %s, 'greenroom.planted', 'x')",
            target.model,
        )
        return Answer(403)

    try:
        slipped = Runner(target).run([way(change)])
        assert "tags of models" in slipped[0].why
    finally:
        target.rows("DELETE FROM registered_model_tags WHERE key = 'greenroom.planted'")


def test_an_error_of_the_way_itself_has_slipped(target: Target) -> None:
    (result,) = Runner(target).run([way(lambda _: Answer(1 // 0))])
    assert "ZeroDivisionError" in result.why


@pytest.mark.parametrize("by", ["verify", "audit", "predictor", "transition"])
def test_what_nobody_tells_of_has_slipped(target: Target, by: Detector) -> None:
    version = honest.prey(target, honest.Stage.STAGING)
    act = way(lambda _: Attempt((Answer(200),), version.model), DETECTED, by)
    (result,) = Runner(target).run([act])
    assert result.outcome == "slipped"


def test_harm_that_was_taken_back_has_slipped_unless_somebody_told(target: Target) -> None:
    def act(*told: str) -> Way:
        attempt = Attempt((Answer(200),), told=told)
        return Way("a test", LOCAL, "a test", lambda _: attempt, DETECTED, "verify", harmless=True)

    (result,) = Runner(target).run([act()])
    assert (result.outcome, result.why) == ("slipped", "verify says nothing")
    runner = Runner(target)
    assert not runner.run([act("verify")])
    assert [result.outcome for result in runner.results] == [DETECTED]
