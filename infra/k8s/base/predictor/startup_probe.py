"""The predictor's startup probe: has it looked at the registry once, so that it serves all that it can?

/readyz says yes as soon as one model is served. That is right for a predictor that was ready before, and too
early for a new one: while the others are still being loaded it would answer requests for them with 503.
"""

import http.client
import json
import sys


def main(port: int) -> int:
    """Return 0 once the first look at the registry is over, whatever it found, else 1."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=4)
    try:
        connection.request("GET", "/readyz")
        # 503 has the same body: a predictor that has looked and found nothing has started too.
        status = json.loads(connection.getresponse().read())["registry"]["status"]
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as error:
        sys.stderr.write(f"/readyz does not answer yet: {error}\n")
        return 1
    finally:
        connection.close()
    if status == "unknown":
        sys.stderr.write("models are being loaded\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
