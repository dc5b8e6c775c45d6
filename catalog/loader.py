"""Finds the model declarations: modules of `catalog.models`, and any file or folder named by a setting."""

import importlib
import importlib.util
import os
import pkgutil
import sys
from collections.abc import Callable, Iterator
from functools import cache, partial
from hashlib import sha256
from pathlib import Path
from types import ModuleType

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

import catalog.models
from catalog.spec import ModelSpec


class CatalogError(Exception):
    """A declaration is missing, broken or declared twice; the message says which and what to do."""


class UnknownModelError(CatalogError):
    """No declaration has the name that was asked for."""


class CatalogSettings(BaseSettings):
    """Where to look for models beyond the ones that come with Greenroom."""

    model_config = SettingsConfigDict(env_prefix="GREENROOM_", extra="ignore")

    catalog_path: str = Field(
        default="",
        description="GREENROOM_CATALOG_PATH: Python files, or folders of them, separated like PATH; "
        "each file defines MODEL, a catalog.spec.ModelSpec.",
    )


def load_catalog() -> dict[str, ModelSpec]:
    """Return every declared model by name, in alphabetical order.

    Raises `CatalogError` when a declaration cannot be read, or a name is declared twice.
    """
    return _load(CatalogSettings().catalog_path)


def reload_catalog() -> None:
    """Read the files of GREENROOM_CATALOG_PATH anew with the next question."""
    _load.cache_clear()


def get_model(name: str) -> ModelSpec:
    """Return one model's declaration; `UnknownModelError` names the ones that exist."""
    models = load_catalog()
    if name not in models:
        raise UnknownModelError(
            f"There is no model {name!r} in the catalogue. It has: {', '.join(models)}. "
            "Declare one in catalog/models/ or in a file named by GREENROOM_CATALOG_PATH."
        )
    return models[name]


@cache
def _load(search_path: str) -> dict[str, ModelSpec]:
    models: dict[str, ModelSpec] = {}
    for origin, module in _modules(search_path):
        spec = getattr(module, "MODEL", None)
        if not isinstance(spec, ModelSpec):
            raise CatalogError(f"{origin} defines no MODEL, a catalog.spec.ModelSpec.")
        if spec.name in models:
            raise CatalogError(f"{origin} declares the model {spec.name!r} a second time; rename one.")
        models[spec.name] = spec
    return dict(sorted(models.items()))


def _modules(search_path: str) -> Iterator[tuple[str, ModuleType]]:
    for info in pkgutil.iter_modules(catalog.models.__path__):
        name = f"catalog.models.{info.name}"
        yield name, _import(name, partial(importlib.import_module, name))
    for entry in filter(None, search_path.split(os.pathsep)):
        path = Path(entry)
        if not path.exists():
            raise CatalogError(f"GREENROOM_CATALOG_PATH names {entry}, which does not exist.")
        for file in sorted(path.glob("*.py")) if path.is_dir() else [path]:
            if not file.name.startswith("_"):
                yield str(file), _import(str(file), partial(_import_file, file))


def _import(origin: str, load: Callable[[], ModuleType]) -> ModuleType:
    try:
        return load()
    except Exception as error:  # a declaration may raise anything; its place is what helps
        raise CatalogError(f"{origin} cannot be read: {type(error).__name__}: {error}") from error


def _import_file(file: Path) -> ModuleType:
    # A name of its own for each path, so that pickles and dataclasses of it resolve, and two files may
    # share a base name.
    name = f"greenroom_catalog_{file.stem}_{sha256(str(file.resolve()).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ImportError("not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
