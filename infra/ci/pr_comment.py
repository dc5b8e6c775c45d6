"""`make model-gate-comment`: posts the gate's report on its pull request.

Runs the default branch's code with a token that may comment, after a run without one. The report comes from
that run, so its text is not trusted: it is cut, it mentions nobody, and nothing runs or parses it.
GitHub, not the report, says which pull request the commit belongs to.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import httpx

MARKER = "<!-- greenroom: model-gate -->"
# GitHub takes 65,536 characters.
_LONGEST = 60_000


class CommentError(click.ClickException):
    """GitHub did not take the comment."""

    exit_code = 2


@click.command()
@click.option("--report", envvar="REPORT", required=True, type=click.Path(dir_okay=False, path_type=Path))
@click.option("--api", envvar="GITHUB_API_URL", default="https://api.github.com", help="GitHub's API.")
@click.option("--repository", envvar="GITHUB_REPOSITORY", required=True, help="OWNER/NAME.")
@click.option("--token", envvar="GITHUB_TOKEN", required=True, help="May write comments of pull requests.")
@click.option("--sha", envvar="HEAD_SHA", required=True, help="The commit that the report is about.")
@click.option("--owner", envvar="HEAD_OWNER", required=True, help="Owner of the repository it is in.")
@click.option("--branch", envvar="HEAD_BRANCH", required=True, help="Its branch there.")
def main(*, report: Path, api: str, repository: str, token: str, sha: str, owner: str, branch: str) -> None:
    """Post the report on the open pull request whose head is SHA, or renew the comment that is there.

    Nothing to post, or no such pull request (it was closed, or has a newer commit), is no error.
    """
    if not report.is_file():
        click.echo(f"There is no {report}: the gate did not run. Nothing is posted.")
        return
    headers = {"Authorization": f"Bearer {token}", "Accept": "application/vnd.github+json"}
    try:
        with httpx.Client(base_url=f"{api}/repos/{repository}/", headers=headers, timeout=30) as client:
            number = _pull(client, sha, f"{owner}:{branch}")
            if number is None:
                click.echo(f"No open pull request has the head {sha}. Nothing is posted.")
                return
            _post(client, number, body(report.read_text("utf-8", errors="replace")))
    except httpx.HTTPStatusError as error:
        raise CommentError(f"GitHub answers {error.response.status_code} to {error.request.url}.") from error
    except httpx.HTTPError as error:
        raise CommentError(f"GitHub at {api} does not answer ({type(error).__name__}).") from error
    click.echo(f"The report is on pull request {number}.")


def body(report: str) -> str:
    """Return the comment: the report, cut to what GitHub takes, in which nobody is mentioned."""
    # A space of no width after the sign: it reads the same and calls nobody.
    text = report.replace("@", "@\u200b")
    if len(text) > _LONGEST:
        text = f"{text[:_LONGEST]}\n\n… cut here; the whole report is an artifact of the run."
    return f"{MARKER}\n{text}"


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
