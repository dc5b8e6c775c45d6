"""From the registry to a loaded model."""

from catalog.spec import ModelSpec
from registry.client import TrackingClient
from registry.errors import NotFoundError
from registry.onnx_model import OnnxModel
from registry.settings import RegistrySettings
from registry.stages import Registry, Stage


def load_production(settings: RegistrySettings, spec: ModelSpec) -> tuple[int, OnnxModel]:
    """Return the number and the model of the version in Production.

    Raises `NotFoundError` when there is none, and whatever `Registry` and `OnnxModel` raise.
    """
    with TrackingClient(settings) as client:
        registry = Registry(client)
        version = registry.in_stage(spec.name, Stage.PRODUCTION)
        if version is None:
            raise NotFoundError(
                f"It has no version in Production. Train one with `greenroom train {spec.name}`, promote it "
                f"with `greenroom promote {spec.name} VERSION`, then restart the predictor."
            )
        return version.number, OnnxModel(registry.model_bytes(version))
