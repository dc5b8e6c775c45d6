"""Threads that change the last bits of a result, kept to one: a model must not depend on the machine's cores.

A sum of floats depends on the order of its terms. BLAS and OpenMP share a sum out among their threads, and a
forest adds its trees' probabilities in the order in which its threads come to an end.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from joblib import parallel_config
from threadpoolctl import threadpool_limits


@contextmanager
def one_thread(*, jobs: bool = False) -> Iterator[None]:
    """Hold BLAS and OpenMP to one thread; unless `jobs`, scikit-learn's `n_jobs` to one as well.

    `jobs` is for fits whose jobs do not share a sum: each tree of a forest is fitted by itself.
    """
    with threadpool_limits(1), nullcontext() if jobs else parallel_config(backend="sequential"):
        yield
