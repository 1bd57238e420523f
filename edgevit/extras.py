"""Optional libraries: which extra brings which, and one sentence when it is missing."""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import importlib.util
from collections.abc import Mapping
from types import ModuleType

from edgevit.errors import MissingDependencyError

# Import names of what each extra in pyproject.toml installs.
EXTRAS: dict[str, tuple[str, ...]] = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "tflite": ("litert_torch", "ai_edge_litert", "torchao"),
    "coreml": ("coremltools",),
    "timm": ("timm",),
    "hf": ("transformers",),
    "nncf": ("nncf", "torchao"),
    "runtime": ("aiohttp", "grpc", "zenoh", "onnxruntime"),
    "cluster": ("ray",),
}


def missing(extra: str) -> list[str]:
    """Import names of `extra` that are not installed; nothing is imported."""
    return [name for name in EXTRAS[extra] if importlib.util.find_spec(name) is None]


def require(extra: str, purpose: str) -> None:
    """Check that an extra is installed, without importing it.

    Raises:
        MissingDependencyError: naming what is missing, why it is needed and the command that installs it.
    """
    absent = missing(extra)
    if absent:
        raise MissingDependencyError(
            f"{purpose} needs {', '.join(absent)}, which is not installed: "
            f'run `pip install "edgevit[{extra}]"`'
        )


def load(name: str, extra: str, purpose: str) -> ModuleType:
    """Import a module of an extra, or say how to install it.

    Raises:
        MissingDependencyError: when any module of the extra is not installed.
    """
    require(extra, purpose)
    return importlib.import_module(name)


def version_of(name: str) -> str | None:
    """Version of the distribution that provides the import name, or None where it is not installed."""
    try:
        # Nearly always under its own name: looking up who provides what reads every installed file's name.
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        providers = _distributions().get(name)
    return importlib.metadata.version(providers[0]) if providers else None


@functools.cache
def _distributions() -> Mapping[str, list[str]]:
    return importlib.metadata.packages_distributions()
