"""What is left of an upload when its sender, its storage or its predictor goes away: nothing."""

import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Thread

import psutil

from registry.storage.datasets import dataset_key
from registry.storage.settings import StorageSettings
from tests.ports import free_port
from tests.serving.support.uploading import (
    MIB,
    NOWHERE,
    PATH,
    TABLE,
    Launch,
    Uploading,
    form,
    generated,
    raw,
    rows,
    to_csv,
)
from tests.waiting import until


def begin(uploading: Uploading, *, whole: bool) -> socket.socket:
    """Send an upload, or half of one, and leave the connection open."""
    content = to_csv(TABLE)
    host, port = uploading.predictor.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=20)
    head = (
        f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Type: text/csv\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    connection.sendall(head.encode() + (content if whole else content[:100]))
    return connection


def test_a_sender_who_leaves_leaves_nothing(usual: Uploading) -> None:
    before = usual.stored()
    begin(usual, whole=False).close()
    until(lambda: usual.post(**form(to_csv(TABLE))).is_success)
    usual.is_clean()
    assert usual.stored() >= before


def test_storage_that_hangs_is_given_up_and_a_sender_who_leaves_ends_it(
    launch: Launch, black_hole: str
) -> None:
    stuck = launch({"runner.MAX_SECONDS": 4}, s3_endpoint_url=black_hole)
    with begin(stuck, whole=True):
        until(stuck.workers)
    until(lambda: not stuck.workers())
    until(lambda: stuck.post(**form(b"")).status_code == 422)
    stuck.is_clean()
    assert "slow" in stuck.refuses(503, "storage_unavailable", **form(to_csv(TABLE)))


def test_an_upload_ends_with_its_predictor(launch: Launch, black_hole: str) -> None:
    stopped = launch(s3_endpoint_url=black_hole, serving_shutdown_timeout="1")
    with begin(stopped, whole=True):
        until(stopped.workers)
        assert stopped.predictor.stop() == 0
    until(lambda: not stopped.workers())
    killed = launch(s3_endpoint_url=black_hole)
    with begin(killed, whole=True):
        until(killed.workers)
        killed.predictor.process.send_signal(signal.SIGKILL)
        killed.predictor.process.wait()
    until(lambda: not killed.workers())
    for uploading in (stopped, killed):
        assert list((uploading.predictor.log.parent / "serving-uploads").iterdir()) == []


def test_storage_that_is_down_is_said_without_its_secrets(launch: Launch, storage: StorageSettings) -> None:
    down = launch(s3_endpoint_url=NOWHERE)
    assert NOWHERE not in down.refuses(503, "storage_unavailable", **form(to_csv(TABLE)))
    secrets = (storage.s3_secret_key.get_secret_value(), storage.s3_access_key.get_secret_value())
    log = down.predictor.log.read_text()
    assert NOWHERE in log
    assert not [secret for secret in secrets if secret in log]
    down.refuses(422, "no_rows", **form(b""))  # and it goes on


def test_after_an_outage_the_same_upload_is_taken(launch: Launch, storage: StorageSettings) -> None:
    port = free_port()
    later = launch(s3_endpoint_url=f"http://127.0.0.1:{port}")
    table = rows(3, "outage")
    later.refuses(503, "storage_unavailable", **form(to_csv(table)))
    with relay(port, int(storage.s3_url.rpartition(":")[2])):
        answer = later.post(**form(to_csv(table)))
    assert answer.status_code == 201, answer.text
    assert dataset_key(answer.json()["id"]) in later.stored()


@contextmanager
def relay(port: int, target: int) -> Iterator[None]:
    """Let the S3 server answer on another port, too."""

    def copy(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def accept() -> None:
        with suppress(OSError):
            while True:
                near, _ = server.accept()
                far = socket.create_connection(("127.0.0.1", target))
                for pair in ((near, far), (far, near)):
                    Thread(target=copy, args=pair, daemon=True).start()

    with socket.create_server(("127.0.0.1", port)) as server:
        Thread(target=accept, daemon=True).start()
        yield
        server.shutdown(socket.SHUT_RDWR)


def test_a_disk_that_takes_nothing_is_said(launch: Launch) -> None:
    full = launch()
    (full.predictor.log.parent / "serving-uploads").touch()  # no folder
    full.refuses(503, "no_room", **form(to_csv(TABLE)))


def test_a_disk_that_fills_up_is_said(launch: Launch) -> None:
    small = launch()
    psutil.Process(small.predictor.process.pid).rlimit(psutil.RLIMIT_FSIZE, (MIB, MIB))
    small.refuses(503, "no_room", **raw(b"".join(generated(5 * MIB))))


def test_without_keys_for_storage_it_says_what_to_set(launch: Launch) -> None:
    bare = launch(s3_access_key="")
    message = bare.refuses(503, "storage_not_configured", **form(to_csv(TABLE)))
    assert "GREENROOM_S3_ACCESS_KEY" in message
