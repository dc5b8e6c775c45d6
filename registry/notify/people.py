"""Tells people what happened. Senders are entry points, `greenroom.notifiers`.

A notification holds no secret, and of addresses the host alone.
"""

import logging
import os
import re
from collections.abc import Iterator
from importlib.metadata import entry_points
from typing import Literal, Protocol, get_args
from urllib.parse import urlsplit

from dotenv import dotenv_values
from pydantic import Field, SecretStr, field_validator

from registry.settings import GreenroomSettings, home
from registry.text import printable

_log = logging.getLogger("greenroom.notifications")

Event = Literal["completed", "failed", "promoted", "refused", "rolled-back", "drift"]

# Discord takes 2,000 characters, and others more.
_MOST_TITLE, _MOST_TEXT = 150, 1_800
_URL = re.compile(r"\b[a-zA-Z][a-zA-Z0-9+.-]*://[^\s\"'<>`]+")
# Settings whose value is a secret; those that name the file of a key hold none.
_SECRET = re.compile(r"(KEY|PEM|PASSWORD|SECRET|TOKEN|URLS|AUTH_STRING|_URI|_URL)\Z")
_FILES = ("GREENROOM_GATE_KEY", "GREENROOM_OPERATOR_KEY")
# Shorter ones would be found in ordinary words.
_SHORTEST = 6


class NotifySettings(GreenroomSettings):
    """Who is told of what happens."""

    notify_urls: SecretStr = Field(
        default=SecretStr(""),
        description="GREENROOM_NOTIFY_URLS: apprise's addresses of who is told, separated by commas or "
        "spaces: slack://…, discord://…, mailto://…, json://… They hold tokens: nothing ever shows them.",
    )
    notify_events: str = Field(
        default=",".join(get_args(Event)),
        description="GREENROOM_NOTIFY_EVENTS: what is told, separated by commas: completed and failed "
        "(flows), promoted, refused, rolled-back, drift. Default: all of it.",
    )

    @field_validator("notify_events")
    @classmethod
    def _known(cls, value: str) -> str:
        names = [name.strip() for name in value.split(",") if name.strip()]
        if unknown := sorted(set(names) - set(get_args(Event))):
            raise ValueError(f"there is no {', '.join(unknown)}; there are {', '.join(get_args(Event))}")
        return ",".join(names)


class Notifier(Protocol):
    """Sends one notification. It may raise, and ends in some seconds."""

    def __call__(self, event: Event, title: str, text: str, settings: NotifySettings) -> None:
        """Send it to every address of the settings."""


def notify(event: Event, title: str, text: str) -> None:
    """Send a notification to every address in GREENROOM_NOTIFY_URLS. Never raises.

    Nothing is sent where no address is set. Secrets of this process, and addresses beyond their host, are
    taken out of `title` and `text` first.
    """
    try:
        settings = NotifySettings()
        wanted = event in settings.notify_events.split(",")
        if not wanted or not settings.notify_urls.get_secret_value().strip():
            return
        title, text = redact(title)[:_MOST_TITLE], redact(text)[:_MOST_TEXT]
        sent = False
        for point in entry_points(group="greenroom.notifiers"):
            try:
                notifier: Notifier = point.load()
            except ModuleNotFoundError:  # images hold only some rooms
                continue
            notifier(event, title, text, settings)
            sent = True
        if not sent:
            _log.warning("GREENROOM_NOTIFY_URLS is set, but nothing that sends is installed here")
    except Exception as error:  # noqa: BLE001 - a notification must not undo or fail what it is about
        # The text of an error may hold an address.
        _log.warning("a notification (%s) could not be sent: %s", event, type(error).__name__)


def redact(text: str) -> str:
    """Return a text fit to leave the house: without secrets, paths and logins of addresses, or controls."""
    for secret in sorted(_secrets(), key=len, reverse=True):
        text = text.replace(secret, "…")
    return printable(_URL.sub(_host_only, text))


def _host_only(url: re.Match[str]) -> str:
    # A webhook's token is in its path, and in the place of the host with schemes that only apprise knows.
    try:
        parts = urlsplit(url[0])
        host, port = parts.hostname, parts.port
    except ValueError:
        return "…"
    if parts.scheme not in ("http", "https") or not host:
        return f"{parts.scheme}://…"
    return f"{parts.scheme}://{host}{f':{port}' if port else ''}{'/…' if parts.path.strip('/') else ''}"


def _secrets() -> Iterator[str]:
    settings = {**dotenv_values(home() / "stack.env"), **os.environ}
    for name, value in settings.items():
        if value and len(value) >= _SHORTEST and name not in _FILES and _SECRET.search(name):
            if "://" not in value:
                yield value
                continue
            for address in re.split(r"[,\s]+", value):
                if "://" in address and urlsplit(address).scheme not in ("http", "https"):
                    yield address
