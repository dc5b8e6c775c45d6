"""What may stand behind a name of the catalogue, and where its work may be done."""

from asyncio import get_running_loop, timeout
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from registry.model_format.onnx_model import Description, Rows
from serving.errors import ModelUnavailableError, PredictionLateError

_Answer = TypeVar("_Answer")
# Requests for one slow model that may wait for it. Each holds one of the turns that all models share.
_MOST_WAITING = 8


class ServedModel(Protocol):
    """A loaded model: an `OnnxModel`, whose cost is bounded, or one in a process of its own."""

    @property
    def description(self) -> Description:
        """What it reads and answers."""

    @property
    def digest(self) -> str:
        """SHA-256 of its file, or of its files, as `sha256:HEX`."""

    def predict(self, rows: Rows) -> tuple[npt.NDArray[np.generic], npt.NDArray[np.float32] | None]:
        """Return labels and probabilities, or numbers and None; see `OnnxModel.predict`."""


class ModelExecutors:
    """A thread for each model that must not run on the event loop.

    Each has its own, so that a model that hangs does not delay other models. For one event loop.
    """

    def __init__(self) -> None:
        self._threads: dict[str, ThreadPoolExecutor] = {}
        self._waiting: Counter[str] = Counter()

    async def run(
        self, name: str, call: Callable[..., _Answer], *arguments: object, deadline: float | None = None
    ) -> _Answer:
        """Return `call(*arguments)`, done in a model's lane.

        Raises `ModelUnavailableError` when too many wait, and `PredictionLateError` after `deadline` seconds.
        """
        if self._waiting[name] >= _MOST_WAITING:
            raise ModelUnavailableError(
                f"The model {name!r} runs in a slow process of its own, for which {_MOST_WAITING} "
                "requests wait already. Send fewer at once, or lists."
            )
        if name not in self._threads:
            self._threads[name] = ThreadPoolExecutor(1, thread_name_prefix=f"lane-{name}")
        self._waiting[name] += 1
        try:
            async with timeout(deadline):
                return await get_running_loop().run_in_executor(
                    self._threads[name], copy_context().run, call, *arguments
                )
        except TimeoutError:
            raise PredictionLateError.of(f"The model {name!r}", deadline or 0) from None
        finally:
            self._waiting[name] -= 1
