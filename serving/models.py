"""What may stand behind a name of the catalogue, and where its work may be done."""

from asyncio import get_running_loop
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from registry.onnx_model import Description, OnnxModel, Rows
from serving.errors import ModelUnavailableError

if TYPE_CHECKING:
    from serving.predictor import Predictor

_Answer = TypeVar("_Answer")
# Requests for one slow model that may wait for it. Each holds one of the turns that all models share.
_MOST_WAITING = 8


class ServedModel(Protocol):
    """A loaded model: `OnnxModel`, or `PyfuncModel` in a process of its own."""

    @property
    def description(self) -> Description:
        """What it reads and answers."""

    @property
    def digest(self) -> str:
        """SHA-256 of its file, or of its files, as `sha256:HEX`."""

    def predict(self, rows: Rows) -> tuple[npt.NDArray[np.generic], npt.NDArray[np.float32] | None]:
        """Return labels and probabilities, or numbers and None; see `OnnxModel.predict`."""


class Lane:
    """A thread for one name of the catalogue, for when what is served there must not run on the event loop.

    Its own, so that a model that hangs keeps nobody else's work waiting.
    """

    def __init__(self, predictor: "Predictor", name: str) -> None:
        self._predictor, self._name = predictor, name
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"lane-{name}")
        self._waiting = 0

    @property
    def needed(self) -> bool:
        """Whether what is served now may block."""
        model = getattr(self._predictor.states[self._name], "model", None)
        return model is not None and not isinstance(model, OnnxModel)

    async def run(self, call: Callable[..., _Answer], *arguments: object) -> _Answer:
        """Return `call(*arguments)`, done in this lane; `ModelUnavailableError` when too many wait for it."""
        if self._waiting >= _MOST_WAITING:
            raise ModelUnavailableError(
                f"The model {self._name!r} runs in a slow process of its own, for which {_MOST_WAITING} "
                "requests wait already. Send fewer at once, or lists."
            )
        self._waiting += 1
        try:
            return await get_running_loop().run_in_executor(self._thread, call, *arguments)
        finally:
            self._waiting -= 1
