"""What Greenroom's commands import and is slow, without what reads the environment at its import.

That is our own modules and the servers of MLflow and Prefect: each command imports those itself. Polars and
ONNX Runtime start threads at their import, which a fork would lose. MLflow and Prefect are put away until a
command imports them, and then read the environment as they would.
"""

import runpy
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

for name in (
    *("alembic", "amplitude", "asyncpg", "boto3", "cachetools", "click", "cloudpickle"),
    *("dask", "distributed", "fastapi", "flask", "fsspec", "git"),
    *("graphene", "griffe", "httpx", "joblib", "jsonschema", "matplotlib.figure"),
    *("matplotlib.backends.backend_agg", "numpy", "onnx", "optuna"),
    *("opentelemetry.sdk.trace", "opentelemetry.sdk.metrics", "pandas", "pathspec", "pendulum"),
    *("prometheus_client", "psutil", "psycopg2", "pyarrow.parquet", "pydantic_settings", "redis", "requests"),
    *("rich.console", "rich.table", "scipy.stats", "securesystemslib.signer", "skl2onnx"),
    *("sklearn.calibration", "sklearn.cluster", "sklearn.compose", "sklearn.dummy", "sklearn.ensemble"),
    *("sklearn.impute", "sklearn.inspection", "sklearn.linear_model", "sklearn.manifold"),
    *("sklearn.mixture", "sklearn.model_selection", "sklearn.naive_bayes", "sklearn.neighbors"),
    *("sklearn.pipeline", "sklearn.svm", "sklearn.tree", "sqlalchemy.ext.asyncio", "sqlparse", "trio"),
    *("tqdm.auto", "uvicorn", "websockets", "yaml"),
):
    try:
        import_module(name)
    except ImportError:
        continue


def _package(name: str) -> str:
    return name.partition(".")[0]


class Shelf(MetaPathFinder, Loader):
    """Holds a package that is imported, out of all modules' sight until somebody imports it.

    `read` then does what its import would have done with the environment.
    """

    def __init__(self, package: str, read: Callable[[], None]) -> None:
        self._package, self._read = package, read
        self._spec = sys.modules[package].__spec__
        names = [name for name in sys.modules if _package(name) == package]
        self._modules = {name: sys.modules.pop(name) for name in names}
        sys.meta_path.insert(0, self)

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        return ModuleSpec(fullname, self, is_package=True) if fullname == self._package else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self._modules[spec.name]

    def exec_module(self, module: ModuleType) -> None:
        sys.meta_path.remove(self)
        module.__spec__ = self._spec
        sys.modules.update(self._modules)
        self._read()


def read_prefects_settings() -> None:
    import_module("prefect.context").refresh_global_settings_context()


def read_mlflows_settings() -> None:
    """Set its loggers' levels, and load what it finds by an entry point: the guard of a server."""
    import_module("mlflow.utils.logging_utils")._configure_mlflow_loggers("mlflow")
    import_module("registry.server.plugin")


# MLflow would import it.
sys.modules["polars"] = None  # type: ignore[assignment]
for name in (
    *("mlflow.data.pandas_dataset", "mlflow.deployments", "mlflow.gateway.config", "mlflow.onnx"),
    *("mlflow.sklearn", "mlflow.store.tracking.sqlalchemy_store"),
    # Not `prefect.main`: its import sets the loggers up.
    *("prefect.blocks.notifications", "prefect.blocks.system", "prefect.client.orchestration"),
    *("prefect.events", "prefect.flow_runs", "prefect.flows", "prefect.runtime", "prefect.serializers"),
    *("prefect.tasks", "prefect.transactions", "prefect.variables"),
):
    import_module(name)
del sys.modules["polars"]
for name in [name for name in sys.modules if _package(name) == "registry"]:
    del sys.modules[name]
Shelf("mlflow", read_mlflows_settings)
Shelf("prefect", read_prefects_settings)

# A forked command has other variables than this process had at its start.
runpy.run_path(str(Path(__file__).with_name("gate_header.py")))["send_variables"]()
