"""The comment on a pull request, against a server that speaks GitHub's REST API as it is documented."""

import io
import json
import stat
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from click.testing import CliRunner, Result

from infra.ci.pr_comment import MARKER, ArtifactError, body, main, report

SHA = "a" * 40
TOKEN = "t0ken"


@dataclass
class GitHub:
    """Pull requests and the comments of each; artifacts of the run by their number, and their archives."""

    url: str = ""
    pulls: list[dict[str, Any]] = field(default_factory=list)
    comments: list[dict[str, Any]] = field(default_factory=list)
    artifacts: dict[int, bytes] = field(default_factory=dict)
    unauthorized: list[str] = field(default_factory=list)
    status: int = 200
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def github() -> Iterator[GitHub]:
    state = GitHub()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.asked.append(self.path)
            where, query = urlsplit(self.path).path, parse_qs(urlsplit(self.path).query)
            if "/artifacts" in where or where.startswith("/blob/"):
                self.artifact(where)
                return
            found = state.comments if where.endswith("/comments") else state.pulls
            first = (int(query["page"][0]) - 1) * int(query["per_page"][0])
            self.answer(found[first : first + int(query["per_page"][0])])

        def do_POST(self) -> None:
            state.comments.append({"id": len(state.comments) + 1, "user": {"type": "Bot"}, **self.sent()})
            self.answer({})

        def do_PATCH(self) -> None:
            number = int(self.path.rpartition("/")[2])
            next(c for c in state.comments if c["id"] == number).update(self.sent())
            self.answer({})

        def artifact(self, where: str) -> None:
            """A list; a redirect to storage under another host name; what is stored there."""
            if where.endswith("/actions/runs/11/artifacts"):
                listed = [{"id": number, "name": "model-gate"} for number in state.artifacts]
                self.answer({"artifacts": [{"id": 99, "name": "model-gate-2"}, *listed]})
            elif where.endswith("/zip"):
                number = where.split("/")[-2]
                self.send_response(302)
                self.send_header("location", f"{state.url.replace('127.0.0.1', 'localhost')}/blob/{number}")
                self.end_headers()
            else:
                if self.headers["authorization"]:
                    state.unauthorized.append(where)
                self.send_response(200)
                self.end_headers()
                self.wfile.write(state.artifacts[int(where.rpartition("/")[2])])

        def sent(self) -> dict[str, Any]:
            content: dict[str, Any] = json.loads(self.rfile.read(int(self.headers["content-length"])))
            return content

        def answer(self, content: Any) -> None:
            right = self.headers["authorization"] == f"Bearer {TOKEN}"
            self.send_response(state.status if right else 401)
            self.end_headers()
            self.wfile.write(json.dumps(content).encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    state.url = f"http://127.0.0.1:{server.server_port}"
    state.artifacts[1] = stored(REPORT)
    yield state
    server.shutdown()


def archive(
    *files: tuple[str, bytes], mode: int = stat.S_IFREG | 0o644, packed: int = zipfile.ZIP_DEFLATED
) -> bytes:
    """A zip archive as an artifact is; `mode` is the kind and the rights of its files."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as content:
        for name, data in files:
            member = zipfile.ZipInfo(name)
            member.external_attr = mode << 16
            member.compress_type = packed
            content.writestr(member, data)
    return target.getvalue()


REPORT = "## ❌ refused, says @everyone\n"


def stored(text: str) -> bytes:
    """The archive of a report."""
    return archive(("model-gate.md", text.encode()))


def post(github: GitHub, **changed: str) -> Result:
    environment = {
        "RUN_ID": "11",
        "GITHUB_API_URL": github.url,
        "GITHUB_REPOSITORY": "band/greenroom",
        "GITHUB_TOKEN": TOKEN,
        "HEAD_SHA": SHA,
        "HEAD_OWNER": "fan",
        "HEAD_BRANCH": "better",
    }
    return CliRunner().invoke(main, env={**environment, **changed})


def test_report_is_posted_and_then_renewed(github: GitHub) -> None:
    github.pulls = [{"number": 3, "head": {"sha": "b" * 40}}, {"number": 7, "head": {"sha": SHA}}]
    # A stranger who copies the marker does not get his comment overwritten.
    github.comments = [{"id": 1, "user": {"type": "User"}, "body": f"{MARKER} mine"}]
    done = post(github)
    assert done.exit_code == 0, done.output
    assert any("/repos/band/greenroom/issues/7/comments" in path for path in github.asked)
    assert any("head=fan%3Abetter" in path for path in github.asked)
    assert [c["body"] for c in github.comments[1:]] == [body(REPORT)]
    assert "@everyone" not in github.comments[1]["body"]
    github.artifacts[2] = stored("## ✅ passed\n")
    assert post(github).exit_code == 0
    assert len(github.comments) == 2
    assert "passed" in github.comments[1]["body"]


def test_comment_is_found_behind_a_hundred_others(github: GitHub) -> None:
    github.pulls = [{"number": 7, "head": {"sha": SHA}}]
    others = [{"id": n, "user": {"type": "User"}, "body": "nice"} for n in range(1, 151)]
    github.comments = [*others, {"id": 151, "user": {"type": "Bot"}, "body": f"{MARKER}\nold"}]
    assert post(github).exit_code == 0
    assert len(github.comments) == 151
    assert "refused" in github.comments[150]["body"]


def test_head_that_moved_on_gets_no_comment(github: GitHub) -> None:
    github.pulls = [{"number": 7, "head": {"sha": "b" * 40}}]
    done = post(github)
    assert done.exit_code == 0
    assert "Nothing is posted" in done.output
    assert github.comments == []


def test_absent_report_posts_nothing(github: GitHub) -> None:
    github.artifacts.clear()
    done = post(github)
    assert done.exit_code == 0
    assert "Nothing is posted" in done.output
    assert len(github.asked) == 1
    assert github.comments == []


def test_storage_is_sent_no_token(github: GitHub) -> None:
    assert post(github).exit_code == 0
    assert any(path.startswith("/blob/") for path in github.asked)
    assert github.unauthorized == []


GOOD = ("model-gate.md", b"passed")
REFUSED = {
    "no zip archive": (b"## passed", "no readable zip"),
    "cut archive": (archive(GOOD)[:-30], "no readable zip"),
    "empty archive": (archive(), "other files"),
    "another name": (archive(("report.md", b"x")), "other files"),
    "more files": (archive(GOOD, ("Makefile", b"x")), "other files"),
    "the same name twice": (archive(GOOD, GOOD), "other files"),
    "a path": (archive(("../model-gate.md", b"x")), "other files"),
    "a folder": (archive(("model-gate.md/", b"")), "other files"),
    "a symbolic link": (archive(("model-gate.md", b"/etc/passwd"), mode=stat.S_IFLNK | 0o777), "regular"),
    "a device": (archive(GOOD, mode=stat.S_IFCHR | 0o644), "regular"),
    "a fifo": (archive(GOOD, mode=stat.S_IFIFO | 0o644), "regular"),
    "a small archive of a large file": (archive(("model-gate.md", b"x" * 20_000_000)), "more than 1048576"),
    "damaged content": (
        archive(GOOD, packed=zipfile.ZIP_STORED).replace(b"passed", b"posted"),
        "no readable zip",
    ),
    "another packing": (archive(GOOD, packed=zipfile.ZIP_LZMA), "packed in a way"),
    "other text": (archive(("model-gate.md", b"\xff\xfe")), "no UTF-8"),
    "control characters": (archive(("model-gate.md", b"a\x1b[2Jb")), "control characters"),
    "a zero byte": (archive(("model-gate.md", b"a\x00b")), "control characters"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_artifact_that_is_no_report_is_refused(github: GitHub, kind: str) -> None:
    content, reason = REFUSED[kind]
    github.pulls, github.artifacts[2] = [{"number": 7, "head": {"sha": SHA}}], content
    done = post(github)
    assert done.exit_code == 1
    assert reason in done.output
    assert github.comments == []


def test_large_artifact_is_refused(github: GitHub) -> None:
    github.artifacts[2] = bytes(2**20 + 1)
    done = post(github)
    assert done.exit_code == 1
    assert "more than 1048576 bytes" in done.output
    assert github.comments == []


def test_archive_that_lies_about_its_size_is_refused() -> None:
    content = bytearray(archive(("model-gate.md", b"x" * 3_000_000)))
    for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        start = content.index(signature) + offset
        content[start : start + 4] = (10).to_bytes(4, "little")
    with pytest.raises(ArtifactError):
        report(bytes(content))


def test_report_of_a_system_without_kinds_of_files_is_read() -> None:
    assert report(archive(GOOD, mode=0)) == "passed"


@pytest.mark.parametrize("wrong", [{"GITHUB_TOKEN": "other"}, {"GITHUB_API_URL": "http://127.0.0.1:1"}])
def test_refusal_of_github_fails_clearly_and_without_the_token(github: GitHub, wrong: dict[str, str]) -> None:
    done = post(github, **wrong)
    assert done.exit_code == 2
    assert "GitHub" in done.output
    assert TOKEN not in done.output
    assert github.comments == []


def test_long_report_is_cut_to_what_github_takes() -> None:
    text = body("x" * 100_000)
    assert len(text) < 65_536
    assert "cut here" in text
