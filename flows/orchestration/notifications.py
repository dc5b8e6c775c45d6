"""Sends notifications with apprise, to Slack, Discord, mail servers and a hundred other services."""

import logging
import time
from threading import Thread
from typing import TYPE_CHECKING, Any

from registry.notify import people
from registry.notify.people import Event, NotifySettings

if TYPE_CHECKING:
    from prefect import Flow
    from prefect.client.schemas.objects import FlowRun, State

_log = logging.getLogger("greenroom.notifications")

# Seconds in which every address must take a notification.
TIMEOUT = 10.0
_KIND = {
    "completed": "success",
    "failed": "failure",
    "promoted": "success",
    "refused": "warning",
    "rolled-back": "warning",
    "drift": "warning",
}


def notify(event: Event, title: str, text: str, settings: NotifySettings) -> None:
    """Send to every address at once and wait for at most `TIMEOUT` seconds.

    An address that cannot be reached, refuses or takes longer is logged by its position in the setting, never
    by its text, which holds a token.
    """
    from apprise import Apprise, NotifyType  # noqa: PLC0415 - a third of a second, and most commands send nothing
    from apprise.utils.parse import parse_urls  # noqa: PLC0415

    # Its own log lines name hosts, and on level DEBUG whole addresses.
    logging.getLogger("apprise").setLevel(logging.CRITICAL + 1)
    addresses = parse_urls(settings.notify_urls.get_secret_value())
    results: dict[int, bool] = {}

    def send(position: int, receiver: Any) -> None:
        try:
            results[position] = bool(
                receiver.notify(body=text, title=title, notify_type=NotifyType(_KIND[event]))
            )
        except Exception as error:  # noqa: BLE001 - plugins raise anything; the text may hold the address
            _log.warning("address %d of GREENROOM_NOTIFY_URLS: %s", position, type(error).__name__)
            results[position] = False

    threads: list[tuple[int, Thread]] = []
    for position, address in enumerate(addresses, 1):
        receiver = Apprise.instantiate(address)
        if receiver is None:
            _log.warning("address %d of GREENROOM_NOTIFY_URLS is none that apprise knows", position)
            continue
        # Daemon threads: the end of the process waits for the threads of a pool.
        threads.append((position, Thread(target=send, args=(position, receiver), daemon=True)))
    for _, thread in threads:
        thread.start()
    deadline = time.monotonic() + TIMEOUT
    for position, thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
        if thread.is_alive():
            _log.warning(
                "address %d of GREENROOM_NOTIFY_URLS did not take a notification (%s) within %g s",
                position,
                event,
                TIMEOUT,
            )
        elif not results[position]:
            _log.warning(
                "address %d of GREENROOM_NOTIFY_URLS did not take a notification (%s)", position, event
            )


# Hooks of Prefect: `@flow(**HOOKS)`.


def _completed(flow: "Flow[..., Any]", run: "FlowRun", _state: "State[Any]") -> None:
    people.notify("completed", f"Greenroom: {run.name} completed", f"The flow {flow.name} completed.")


def _failed(flow: "Flow[..., Any]", run: "FlowRun", state: "State[Any]") -> None:
    message = f" {state.message}" if state.message else ""
    people.notify("failed", f"Greenroom: {run.name} failed", f"The flow {flow.name} {state.name}.{message}")


HOOKS: dict[str, Any] = {"on_completion": [_completed], "on_failure": [_failed], "on_crashed": [_failed]}
