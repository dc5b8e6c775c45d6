"""Settings of batch scoring."""

import os

from pydantic import Field

from registry.settings import GreenroomSettings


class ScoreSettings(GreenroomSettings):
    """How many processes score, or which cluster, and how much one of them takes on at a time."""

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
    score_partition_rows: int = Field(
        default=250_000,
        ge=1,
        description="GREENROOM_SCORE_PARTITION_ROWS: rows of one partition, or one row group's if that has "
        "more.",
    )

    @property
    def workers(self) -> int:
        """Processes of the local cluster."""
        return self.score_workers or cores()

    @property
    def threads(self) -> int:
        """Threads of ONNX Runtime in each process: with all workers no more than there are cores."""
        return 1 if self.dask_scheduler else max(1, cores() // self.workers)


def cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
