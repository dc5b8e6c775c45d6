"""What an operator may ask of a running predictor; shut unless a token is set."""

import hmac

from fastapi import APIRouter, Request
from starlette.exceptions import HTTPException

from serving.api.schemas import Refreshing
from serving.models.watcher import Watcher
from serving.settings import ServingSettings


def admin_routes(watcher: Watcher, settings: ServingSettings) -> APIRouter:
    """Return the operator's routes; without GREENROOM_SERVING_ADMIN_TOKEN there are none."""
    router = APIRouter(prefix="/api/admin", tags=["admin"])
    token = settings.serving_admin_token.get_secret_value()
    if not token:
        return router

    @router.post(
        "/refresh",
        status_code=202,
        operation_id="refresh",
        summary="Look at the registry now",
        responses={401: {"description": "The token is missing or wrong."}},
    )
    async def refresh(request: Request) -> Refreshing:
        """Ask the registry at once instead of at the next second: `greenroom promote` sends this.

        Needs `Authorization: Bearer TOKEN`. Answers before the new version is loaded.
        """
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if not hmac.compare_digest(given.encode(), token.encode()):
            raise HTTPException(401, "The admin token is missing or wrong.", {"WWW-Authenticate": "Bearer"})
        watcher.nudge()
        return Refreshing()

    return router
