"""The predictor's startup probe: has it read the registry once?

/readyz succeeds as soon as one model is served, too early for a new pod: the other models would answer 503.
"""

import http.client
import json
import sys


def main(port: int) -> int:
    """Return 0 once the registry was read for the first time, else 1."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=4)
    try:
        connection.request("GET", "/readyz")
        # 503 has the same body: a predictor that found no model has started too.
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
