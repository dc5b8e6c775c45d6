"""MLflow's client in this process."""

import os

import mlflow

from registry.settings import RegistrySettings


def connect() -> None:
    """Point MLflow at the tracking server that the settings name."""
    settings = RegistrySettings()
    if settings.tracking_username:
        # MLflow's client reads a login only from the environment.
        os.environ["MLFLOW_TRACKING_USERNAME"] = settings.tracking_username
        os.environ["MLFLOW_TRACKING_PASSWORD"] = settings.tracking_password.get_secret_value()
    mlflow.set_tracking_uri(settings.tracking_url)
    mlflow.set_registry_uri(settings.tracking_url)
