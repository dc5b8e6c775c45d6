"""A container's health check: does GREENROOM_HEALTH_URL answer with a success?

Standard library alone, and run with `python -I -S`: it is started every few seconds, beside a service.
"""

import http.client
import os
import sys


def main(url: str) -> int:
    """Return 0 if the URL (http://HOST:PORT/PATH) answers 2xx or 3xx within four seconds, else 1."""
    host, _, path = url.removeprefix("http://").partition("/")
    connection = http.client.HTTPConnection(host, timeout=4)
    try:
        connection.request("GET", f"/{path}")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        sys.stderr.write(f"{url} does not answer: {error}\n")
        return 1
    finally:
        connection.close()
    if status >= 400:
        sys.stderr.write(f"{url} answers {status}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(os.environ["GREENROOM_HEALTH_URL"]))
