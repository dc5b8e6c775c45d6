"""Tells running predictors of a promotion, so that they look at once and not a second later."""

from collections.abc import Callable

import httpx
from pydantic import Field, SecretStr

from registry.settings import GreenroomSettings


class NudgeSettings(GreenroomSettings):
    """Which predictors to tell."""

    predictors: str = Field(
        default="",
        description="GREENROOM_PREDICTORS: addresses of the running predictors, separated by commas. They "
        "are told of promotions and rollbacks, and `greenroom status` asks each what it serves.",
    )
    serving_admin_token: SecretStr = Field(
        default=SecretStr(""),
        description="GREENROOM_SERVING_ADMIN_TOKEN: what the predictors ask for before they listen.",
    )

    @property
    def predictor_urls(self) -> list[str]:
        """The addresses, without trailing slashes."""
        return [url.strip().rstrip("/") for url in self.predictors.split(",") if url.strip()]


def nudge(say: Callable[[str], None]) -> None:
    """Tell every predictor that the settings name; who does not listen is said, and finds out by itself."""
    settings = NudgeSettings()
    token = settings.serving_admin_token.get_secret_value()
    if not token:
        return
    for url in settings.predictor_urls:
        try:
            answer = httpx.post(
                f"{url}/api/admin/refresh",
                headers={"Authorization": f"Bearer {token}"},
                timeout=2,
                trust_env=False,
            )
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            say(f"The predictor at {url} could not be told ({type(error).__name__}); it looks by itself.")
            continue
        if not answer.is_success:
            say(f"The predictor at {url} did not listen ({answer.status_code}); it looks by itself.")
