"""Starts the gate's service, which alone reads the gate's private key: `python -m checks.service`."""

from urllib.parse import urlsplit

import click
import uvicorn

from checks.service.app import create_app
from checks.service.process import JudgeProcess
from checks.settings import ChecksSettings


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
def main(host: str) -> None:
    """Serve verdicts on GREENROOM_GATE_PORT."""
    settings, judge = ChecksSettings(), JudgeProcess()
    named = urlsplit(settings.gate_address).hostname or "127.0.0.1"
    app = create_app(judge, hosts=("127.0.0.1", "localhost", named))
    judge.start()
    try:
        uvicorn.run(app, host=host, port=settings.gate_port, log_level="warning", access_log=False)
    finally:
        judge.stop()


if __name__ == "__main__":
    main()
