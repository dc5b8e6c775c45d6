"""People are told of promotions, refusals and rollbacks that `greenroom` made; a dead receiver stops none."""

import pytest

from tests.conftest import Stack, free_port
from tests.receivers import http_receiver
from tests.registry.support.registered import Registrar


def test_moves_and_refusals_are_told_in_order(stack: Stack, registrar: Registrar) -> None:
    registrar.in_production()
    registrar.good()
    registrar.version()
    name = registrar.name
    with http_receiver() as receiver:
        urls = f"json://127.0.0.1:{receiver.port}"
        commands = [
            ("promote", name, "3"),
            ("promote", name, "2", "--reason", "it sounds better"),
            ("rollback", name, "--reason", "it does not"),
            ("rollback", name, "--reason", "again"),
        ]
        codes = [stack.greenroom(*one, GREENROOM_NOTIFY_URLS=urls).returncode for one in commands]
        assert codes == [1, 0, 0, 1]
        assert receiver.titles == [
            f"Greenroom: {name} version 3 to Production was refused",
            f"Greenroom: {name} version 2 is in Production",
            f"Greenroom: {name} was rolled back",
            f"Greenroom: the rollback of {name} was refused",
        ]
        assert [body["type"] for body in receiver.bodies] == ["warning", "success", "warning", "warning"]
        assert "it sounds better" in receiver.bodies[1]["message"]
        assert "version 1 is in Production again" in receiver.bodies[2]["message"]


@pytest.mark.parametrize("address", ["json://127.0.0.1:{port}/t0ken", "nosuch://t0ken"])
def test_dead_receiver_stops_no_promotion(stack: Stack, registrar: Registrar, address: str) -> None:
    registrar.good()
    done = stack.greenroom(
        "promote", registrar.name, "1", GREENROOM_NOTIFY_URLS=address.format(port=free_port())
    )
    assert done.returncode == 0, done.stderr
    assert "is in Production" in done.stdout
    assert "address 1 of GREENROOM_NOTIFY_URLS" in done.stderr
    assert "t0ken" not in done.stdout + done.stderr
