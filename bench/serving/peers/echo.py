"""The limit: an ASGI app that reads the body and answers what a prediction looks like. Argument: port."""

import sys
from typing import Any

import uvicorn

ANSWER = (
    b'{"model":"genre","version":1,"prediction":"country","probabilities":{"country":0.52680415,'
    b'"deep-house":0.12270148,"dubstep":0.039080527,"hip-hop":0.16634636,"metal":0.022332419,"rock":0.12273502}}'
)
HEADERS = [(b"content-type", b"application/json"), (b"content-length", str(len(ANSWER)).encode())]


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answer every request the same."""
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": ANSWER})


if __name__ == "__main__":
    uvicorn.run(
        app, host="127.0.0.1", port=int(sys.argv[1]), workers=1, server_header=False, access_log=False
    )
