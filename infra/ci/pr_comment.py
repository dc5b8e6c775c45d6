"""`make model-gate-comment`: posts the gate's report on its pull request.

Runs the default branch's code with a token that may comment, after a run without one. The report comes from
that run, so nothing of it is trusted. It is read from the run's artifact in memory, and nothing of the
artifact reaches the disk. The text is cut, it mentions nobody, and nothing runs or parses it. GitHub, not the
report, says which pull request the commit belongs to.
"""

import io
import stat
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any

import click
import httpx

MARKER = "<!-- greenroom: model-gate -->"
# GitHub takes 65,536 characters.
_LONGEST = 60_000
_ARTIFACT, _FILE = "model-gate", "model-gate.md"
# Of the report, and of the artifact that holds it. A report of every model has some 30 KB.
_LARGEST = 2**20


class CommentError(click.ClickException):
    """GitHub did not take the comment."""

    exit_code = 2


class ArtifactError(click.ClickException):
    """The run's artifact is not the report of a gate."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"The run's artifact `{_ARTIFACT}` is refused: {reason}. Nothing is posted.")


@click.command()
@click.option("--run", envvar="RUN_ID", required=True, help="The run that has the report as an artifact.")
@click.option("--api", envvar="GITHUB_API_URL", default="https://api.github.com", help="GitHub's API.")
@click.option("--repository", envvar="GITHUB_REPOSITORY", required=True, help="OWNER/NAME.")
@click.option("--token", envvar="GITHUB_TOKEN", required=True, help="May write comments of pull requests.")
@click.option("--sha", envvar="HEAD_SHA", required=True, help="The commit that the report is about.")
@click.option("--owner", envvar="HEAD_OWNER", required=True, help="Owner of the repository it is in.")
@click.option("--branch", envvar="HEAD_BRANCH", required=True, help="Its branch there.")
def main(*, run: str, api: str, repository: str, token: str, sha: str, owner: str, branch: str) -> None:
    """Post the report on the open pull request whose head is SHA, or renew the comment that is there.

    Nothing to post, or no such pull request (it was closed, or has a newer commit), is no error.
    """
    headers = {"Authorization": f"Bearer {token}", "Accept": "application/vnd.github+json"}
    try:
        with httpx.Client(base_url=f"{api}/repos/{repository}/", headers=headers, timeout=30) as client:
            archive = _archive(client, run)
            if archive is None:
                click.echo(f"Run {run} has no report: the gate did not run. Nothing is posted.")
                return
            text = report(archive)
            number = _pull(client, sha, f"{owner}:{branch}")
            if number is None:
                click.echo(f"No open pull request has the head {sha}. Nothing is posted.")
                return
            _post(client, number, body(text))
    except httpx.HTTPStatusError as error:
        raise CommentError(f"GitHub answers {error.response.status_code} to {error.request.url}.") from error
    except httpx.HTTPError as error:
        raise CommentError(f"GitHub at {api} does not answer ({type(error).__name__}).") from error
    click.echo(f"The report is on pull request {number}.")


def report(archive: bytes) -> str:
    """Return the report of an artifact's zip archive.

    The archive must hold one regular file of its name, at most 1 MiB of UTF-8 without control characters.
    Raises `ArtifactError`.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(archive)) as content:
            members = content.infolist()
            if [member.filename for member in members] != [_FILE]:
                raise ArtifactError(f"it holds other files than {_FILE}")
            kind = stat.S_IFMT(members[0].external_attr >> 16)
            # Archives of other systems than Unix name no kind.
            if kind not in (0, stat.S_IFREG):
                raise ArtifactError(f"{_FILE} is no regular file")
            if members[0].compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ArtifactError(f"{_FILE} is packed in a way that GitHub does not use")
            with content.open(members[0]) as file:
                # The sizes that the archive states may be wrong.
                text = file.read(_LARGEST + 1)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, zlib.error) as error:
        raise ArtifactError("it is no readable zip archive") from error
    if len(text) > _LARGEST:
        raise ArtifactError(f"{_FILE} has more than {_LARGEST} bytes")
    try:
        decoded = text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ArtifactError(f"{_FILE} is no UTF-8") from error
    if any(unicodedata.category(sign) == "Cc" and sign not in "\t\n\r" for sign in decoded):
        raise ArtifactError(f"{_FILE} holds control characters")
    return decoded


def body(report: str) -> str:
    """Return the comment: the report, cut to what GitHub takes, in which nobody is mentioned."""
    # A space of no width after the sign: it reads the same and calls nobody.
    text = report.replace("@", "@\u200b")
    if len(text) > _LONGEST:
        text = f"{text[:_LONGEST]}\n\n… cut here; the whole report is an artifact of the run."
    return f"{MARKER}\n{text}"


def _archive(client: httpx.Client, run: str) -> bytes | None:
    """Return the zip archive of the run's newest report; None if it has none."""
    answer = client.get(f"actions/runs/{run}/artifacts", params={"name": _ARTIFACT, "per_page": 100})
    artifacts = [
        artifact
        for artifact in answer.raise_for_status().json()["artifacts"]
        if artifact["name"] == _ARTIFACT and not artifact.get("expired")
    ]
    if not artifacts:
        return None
    number = max(int(artifact["id"]) for artifact in artifacts)
    archive = bytearray()
    # GitHub redirects to its storage, which httpx sends no token.
    with client.stream("GET", f"actions/artifacts/{number}/zip", follow_redirects=True) as stream:
        for chunk in stream.raise_for_status().iter_bytes():
            archive += chunk
            if len(archive) > _LARGEST:
                raise ArtifactError(f"it has more than {_LARGEST} bytes")
    return bytes(archive)


def _pull(client: httpx.Client, sha: str, head: str) -> int | None:
    for pull in _pages(client, "pulls", {"state": "open", "head": head}):
        if pull["head"]["sha"] == sha:
            return int(pull["number"])
    return None


def _post(client: httpx.Client, number: int, text: str) -> None:
    for comment in _pages(client, f"issues/{number}/comments", {}):
        ours = (comment.get("user") or {}).get("type") == "Bot"
        if ours and str(comment.get("body", "")).startswith(MARKER):
            client.patch(f"issues/comments/{comment['id']}", json={"body": text}).raise_for_status()
            return
    client.post(f"issues/{number}/comments", json={"body": text}).raise_for_status()


def _pages(client: httpx.Client, path: str, query: dict[str, str]) -> Iterator[dict[str, Any]]:
    page, size = 1, 100
    while True:
        answer = client.get(path, params={**query, "per_page": size, "page": page}).raise_for_status()
        items: list[dict[str, Any]] = answer.json()
        yield from items
        if len(items) < size:
            return
        page += 1


if __name__ == "__main__":
    main()
