"""What Greenroom's commands import and is slow, without what reads the environment at its import.

That is MLflow, Prefect and our own modules: each command imports those itself. Polars and ONNX Runtime
start threads at their import, which a fork would lose.
"""

import runpy
from importlib import import_module
from pathlib import Path

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

# A forked command has other variables than this process had at its start.
runpy.run_path(str(Path(__file__).with_name("gate_header.py")))["send_variables"]()
