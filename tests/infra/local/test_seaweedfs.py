"""SeaweedFS' inner ports and files: nobody gets anything without the certificate in the home."""

import socket
import ssl
import stat
from pathlib import Path

import httpx
import psutil
import pytest

from infra.local import seaweedfs
from tests.conftest import Stack
from tests.stack_processes import processes_of
from tests.waiting import until

pytestmark = pytest.mark.slow

# What reads, lists, writes and deletes on the inner HTTP ports, and what hands out the right to.
REQUESTS = [
    ("GET", "/"),
    ("GET", "/buckets/?pretty=y"),
    ("GET", "/buckets/greenroom/greenroom-ready"),
    ("PUT", "/buckets/greenroom/planted"),
    ("POST", "/buckets/greenroom/planted"),
    ("DELETE", "/buckets/greenroom/greenroom-ready"),
    ("DELETE", "/buckets/greenroom?recursive=true"),
    ("GET", "/dir/assign"),
    ("GET", "/dir/lookup?volumeId=1"),
    ("GET", "/dir/status"),
    ("GET", "/vol/grow?count=1"),
    ("GET", "/col/delete?collection=greenroom"),
    ("GET", "/status"),
    ("GET", "/metrics"),
]
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])


@pytest.fixture(scope="module")
def inner_ports(stack: Stack) -> list[int]:
    """Every port on which SeaweedFS listens, but the one of S3."""

    def listening() -> set[int]:
        return {
            connection.laddr.port
            for process in processes_of(stack)["s3"]
            for connection in process.net_connections("tcp")
            if connection.status == psutil.CONN_LISTEN
        } - {stack.ports["S3"]}

    # Master, volume server, filer, admin: HTTP and gRPC; and S3's gRPC. S3 answers before admin has started.
    until(lambda: len(listening()) == 9, lambda: f"other ports than expected: {listening()}", 60)
    return sorted(listening())


def tls(certificates: Path | None) -> ssl.SSLContext:
    """A client that trusts every server, and shows the certificate of a folder."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2", "http/1.1"])
    if certificates:
        context.load_cert_chain(certificates / "certificate.pem", certificates / "key.pem")
    return context


def answer(port: int, context: ssl.SSLContext | None, request: bytes | None = None) -> bytes:
    """What a port sends back to a request, else to the beginning of HTTP/2, which gRPC uses."""
    try:
        with (
            socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
            context.wrap_socket(plain) if context else plain as connection,
        ):
            connection.sendall(request or PREFACE)
            return connection.recv(4096)
    except (ssl.SSLError, ConnectionError):
        return b""


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate that somebody else made, in the same way."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GREENROOM_HOME", str(tmp_path_factory.mktemp("other")))
        seaweedfs.prepare()
        return seaweedfs.home() / "s3-tls"


@pytest.mark.parametrize(("verb", "path"), REQUESTS)
def test_inner_port_answers_nothing_without_the_certificate(
    inner_ports: list[int], foreign: Path, verb: str, path: str
) -> None:
    request = f"{verb} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nx".encode()
    for port in inner_ports:
        plain = answer(port, None, request)
        # gRPC's port sends its own HTTP/2 settings or nothing.
        assert not plain.startswith(b"HTTP/1.1"), (port, plain)
        assert b"200" not in plain[:20], (port, plain)
        assert answer(port, tls(None), request) == b"", port
        assert answer(port, tls(foreign), request) == b"", port


def test_inner_port_speaks_no_grpc_without_the_certificate(
    stack: Stack, inner_ports: list[int], foreign: Path
) -> None:
    """gRPC begins with the server's settings, a frame of type 4."""
    for port in inner_ports:
        assert answer(port, None)[3:4] != b"\x04", port
        assert answer(port, tls(None)) == b"", port
        assert answer(port, tls(foreign)) == b"", port
    spoken = [port for port in inner_ports if answer(port, tls(stack.home / "s3-tls"))[3:4] == b"\x04"]
    assert len(spoken) == len(inner_ports), "with the certificate each port speaks HTTP/2"


def test_the_filer_answers_its_own_parts(stack: Stack) -> None:
    """The same request with the certificate lists the bucket: what is refused above does exist."""
    filer = seaweedfs_ports(stack)[2]
    own = tls(stack.home / "s3-tls")
    own.set_alpn_protocols(["http/1.1"])
    listed = httpx.get(f"https://127.0.0.1:{filer}/buckets/greenroom/?limit=5", verify=own)
    assert listed.is_success
    assert "greenroom-ready" in listed.text


def seaweedfs_ports(stack: Stack) -> list[int]:
    lines = (stack.home / "stack.env").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("GREENROOM_S3_INTERNAL_PORTS=")]
    return [int(port) for port in line.partition("=")[2].split(",")]


def test_its_sockets_are_for_their_owner_alone(stack: Stack) -> None:
    paths = [
        stack.home / connection.laddr
        for process in processes_of(stack)["s3"]
        for connection in process.net_connections("unix")
        if connection.laddr
    ]
    assert {stack.home / "tmp" / "filer.sock", stack.home / "tmp" / "s3.sock"} <= set(paths)
    for path in filter(Path.exists, paths):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_folders_of_the_home_are_closed_when_it_is_taken_over(stack: Stack) -> None:
    """Older versions left the volume files readable for everybody."""
    volumes = stack.home / "s3"
    volumes.chmod(0o755)
    (volumes / "admin").chmod(0o755)
    done = stack.greenroom("up", "--no-train")
    assert done.returncode == 0, done.stdout + done.stderr
    for folder in filter(Path.is_dir, stack.home.iterdir()):
        closed = folder / "data" if folder.name == "postgres" else folder
        assert stat.S_IMODE(closed.stat().st_mode) & 0o077 == 0, closed


def test_key_of_the_certificate_is_for_its_owner_alone(stack: Stack) -> None:
    for file in (stack.home / "s3-tls").iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
