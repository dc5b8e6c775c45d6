"""Sends notifications with apprise, which speaks to Slack, Discord, mail servers and a hundred others."""

import logging
import time
from threading import Thread
from typing import TYPE_CHECKING, Any, Protocol

from registry.notify import people
from registry.notify.people import Event, NotifySettings

if TYPE_CHECKING:
    from prefect import Flow
    from prefect.client.schemas.objects import FlowRun, State

_log = logging.getLogger("greenroom.notifications")

_KIND = {
    "completed": "success",
    "failed": "failure",
    "promoted": "success",
    "refused": "warning",
    "rolled-back": "warning",
    "drift": "warning",
}


def notify(event: Event, title: str, text: str, settings: NotifySettings) -> None:
    """Send to every address at once and wait for at most `settings.notify_timeout` seconds.

    An address that cannot be reached, refuses or takes longer is logged by its place in the setting, never
    by itself: it holds a token.
    """
    from apprise import Apprise, NotifyType  # noqa: PLC0415 - a third of a second, and most commands tell nobody
    from apprise.utils.parse import parse_urls  # noqa: PLC0415

    # Its own lines name hosts, and at their finest level whole addresses.
    logging.getLogger("apprise").setLevel(logging.CRITICAL + 1)
    addresses = parse_urls(settings.notify_urls.get_secret_value())
    results: dict[int, bool] = {}

    def send(place: int, receiver: Any) -> None:
        try:
            results[place] = bool(
                receiver.notify(body=text, title=title, notify_type=NotifyType(_KIND[event]))
            )
        except Exception as error:  # noqa: BLE001 - whatever a plugin raises; its text may hold the address
            _log.warning("address %d of GREENROOM_NOTIFY_URLS: %s", place, type(error).__name__)
            results[place] = False

    threads: list[tuple[int, Thread]] = []
    for place, address in enumerate(addresses, 1):
        receiver = Apprise.instantiate(address)
        if receiver is None:
            _log.warning("address %d of GREENROOM_NOTIFY_URLS is none that apprise knows", place)
            continue
        # A thread of ours, for the end of a process does not wait for it as it does for a pool's.
        threads.append((place, Thread(target=send, args=(place, receiver), daemon=True)))
    for _, thread in threads:
        thread.start()
    deadline = time.monotonic() + settings.notify_timeout
    for place, thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
        if thread.is_alive():
            _log.warning(
                "address %d of GREENROOM_NOTIFY_URLS did not take a notification (%s) within %g s",
                place,
                event,
                settings.notify_timeout,
            )
        elif not results[place]:
            _log.warning("address %d of GREENROOM_NOTIFY_URLS did not take a notification (%s)", place, event)


# Prefect's hooks: `@flow(**HOOKS)`.


def _completed(flow: "Flow[..., Any]", run: "FlowRun", _state: "State[Any]") -> None:
    people.notify("completed", f"Greenroom: {run.name} completed", f"The flow {flow.name} completed.")


def _failed(flow: "Flow[..., Any]", run: "FlowRun", state: "State[Any]") -> None:
    said = f" {state.message}" if state.message else ""
    people.notify("failed", f"Greenroom: {run.name} failed", f"The flow {flow.name} {state.name}.{said}")


HOOKS: dict[str, Any] = {"on_completion": [_completed], "on_failure": [_failed], "on_crashed": [_failed]}


class Outcome(Protocol):
    """What a training came to, as the flow `train` returns it."""

    @property
    def model(self) -> str:
        """Name of the model."""

    @property
    def version(self) -> int:
        """Number of the new version."""

    @property
    def stage(self) -> str:
        """Where it is now."""

    @property
    def refusals(self) -> tuple[str, ...]:
        """Why it is not where it was to go."""


def tell_outcome(outcome: Outcome) -> None:
    """Tell people of a version that was refused, by the gate or the server, or promoted."""
    version = f"{outcome.model} version {outcome.version}"
    if outcome.refusals:
        people.notify("refused", f"Greenroom: {version} was refused", "\n".join(outcome.refusals))
    elif outcome.stage != "None":
        people.notify(
            "promoted", f"Greenroom: {version} is in {outcome.stage}", f"{version} is in {outcome.stage}."
        )
