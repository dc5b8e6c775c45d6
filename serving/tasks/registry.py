"""The tasks that are served. A further task is a file beside these and a line here."""

from serving.tasks.base import ServingTask
from serving.tasks.classification import Classification
from serving.tasks.clustering import Clustering
from serving.tasks.regression import Regression
from serving.tasks.similarity import Similarity

TASKS: dict[str, ServingTask] = {
    task.name: task for task in (Classification(), Regression(), Clustering(), Similarity())
}


def task_paths() -> dict[str, ServingTask]:
    """Return the tasks that have a path of their own, by that path."""
    return {task.path: task for task in TASKS.values() if task.path}
