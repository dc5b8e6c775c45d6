"""Free ports, none of them twice: not in this process, and not in another one that runs tests beside it."""

import os
import random
import socket
from itertools import count

# Below what systems give to outgoing connections, and free again 10,000 above, where SeaweedFS puts gRPC.
_FIRST, _COUNT = 10_300, 9_700
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_SHARE = _COUNT // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
# Somewhere else each time: another checkout's tests may run on the same machine.
_TURN = count(random.randrange(_SHARE))


def free_port() -> int:
    """Return a port of this process' share that nothing listens on, and that it has not been given yet."""
    for turn in _TURN:
        port = _FIRST + _WORKER * _SHARE + turn % _SHARE
        if _is_free(port) and _is_free(port + 10_000):
            return port
    raise AssertionError("the turns never end")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
