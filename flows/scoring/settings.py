"""Settings of batch scoring."""

import os

from pydantic import Field

from registry.settings import GreenroomSettings


class ScoreSettings(GreenroomSettings):
    """The processes or the Dask cluster that score."""

    score_workers: int = Field(
        default=0,
        ge=0,
        le=1024,
        description="GREENROOM_SCORE_WORKERS: processes of the local Dask cluster. 0: one for each core.",
    )
    dask_scheduler: str = Field(
        default="",
        description="GREENROOM_DASK_SCHEDULER: address of a Dask scheduler, tcp://HOST:PORT, whose workers "
        "score. Empty: a local cluster for the time of the run.",
    )

    @property
    def workers(self) -> int:
        """Processes of the local cluster."""
        return self.score_workers or cores()

    @property
    def threads(self) -> int:
        """Threads of ONNX Runtime in each process; all workers together have no more threads than cores."""
        return 1 if self.dask_scheduler else max(1, cores() // self.workers)


def cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
