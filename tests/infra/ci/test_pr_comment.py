"""The comment on a pull request, against a server that speaks GitHub's REST API as it is documented."""

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from click.testing import CliRunner, Result

from infra.ci.pr_comment import MARKER, body, main

SHA = "a" * 40
TOKEN = "t0ken"


@dataclass
class GitHub:
    """Pull requests and the comments of each."""

    url: str = ""
    pulls: list[dict[str, Any]] = field(default_factory=list)
    comments: list[dict[str, Any]] = field(default_factory=list)
    status: int = 200
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def github() -> Iterator[GitHub]:
    state = GitHub()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.asked.append(self.path)
            where, query = urlsplit(self.path).path, parse_qs(urlsplit(self.path).query)
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
    yield state
    server.shutdown()


def post(github: GitHub, report: Path, **changed: str) -> Result:
    environment = {
        "REPORT": str(report),
        "GITHUB_API_URL": github.url,
        "GITHUB_REPOSITORY": "band/greenroom",
        "GITHUB_TOKEN": TOKEN,
        "HEAD_SHA": SHA,
        "HEAD_OWNER": "fan",
        "HEAD_BRANCH": "better",
    }
    return CliRunner().invoke(main, env={**environment, **changed})


@pytest.fixture
def report(tmp_path: Path) -> Path:
    path = tmp_path / "model-gate.md"
    path.write_text("## ❌ refused, says @everyone\n")
    return path


def test_report_is_posted_and_then_renewed(github: GitHub, report: Path) -> None:
    github.pulls = [{"number": 3, "head": {"sha": "b" * 40}}, {"number": 7, "head": {"sha": SHA}}]
    # A stranger who copies the marker does not get his comment overwritten.
    github.comments = [{"id": 1, "user": {"type": "User"}, "body": f"{MARKER} mine"}]
    done = post(github, report)
    assert done.exit_code == 0, done.output
    assert any("/repos/band/greenroom/issues/7/comments" in path for path in github.asked)
    assert any("head=fan%3Abetter" in path for path in github.asked)
    assert [c["body"] for c in github.comments[1:]] == [body(report.read_text())]
    assert "@everyone" not in github.comments[1]["body"]
    report.write_text("## ✅ passed\n")
    assert post(github, report).exit_code == 0
    assert len(github.comments) == 2
    assert "passed" in github.comments[1]["body"]


def test_comment_is_found_behind_a_hundred_others(github: GitHub, report: Path) -> None:
    github.pulls = [{"number": 7, "head": {"sha": SHA}}]
    others = [{"id": n, "user": {"type": "User"}, "body": "nice"} for n in range(1, 151)]
    github.comments = [*others, {"id": 151, "user": {"type": "Bot"}, "body": f"{MARKER}\nold"}]
    assert post(github, report).exit_code == 0
    assert len(github.comments) == 151
    assert "refused" in github.comments[150]["body"]


def test_head_that_moved_on_gets_no_comment(github: GitHub, report: Path) -> None:
    github.pulls = [{"number": 7, "head": {"sha": "b" * 40}}]
    done = post(github, report)
    assert done.exit_code == 0
    assert "Nothing is posted" in done.output
    assert github.comments == []


def test_absent_report_posts_nothing(github: GitHub, tmp_path: Path) -> None:
    done = post(github, tmp_path / "none.md")
    assert done.exit_code == 0
    assert github.asked == []


@pytest.mark.parametrize("wrong", [{"GITHUB_TOKEN": "other"}, {"GITHUB_API_URL": "http://127.0.0.1:1"}])
def test_refusal_of_github_fails_clearly_and_without_the_token(
    github: GitHub, report: Path, wrong: dict[str, str]
) -> None:
    done = post(github, report, **wrong)
    assert done.exit_code == 2
    assert "GitHub" in done.output
    assert TOKEN not in done.output
    assert github.comments == []


def test_long_report_is_cut_to_what_github_takes() -> None:
    text = body("x" * 100_000)
    assert len(text) < 65_536
    assert "cut here" in text
