"""Where models come from: timm, transformers, or a function of the user's own."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from edgevit.errors import EdgevitError, closest
from edgevit.graph.choices import Choices, Source, declared_preprocessing, given_weights
from edgevit.graph.hf_source import load_hf
from edgevit.graph.timm_source import load_timm
from edgevit.graph.weights import digest

KINDS = "timm:NAME, hf:ID_OR_DIR, FILE.pt2 or package.module:factory"

_LOADERS: dict[str, Callable[[str, Choices], Source]] = {"timm": load_timm, "hf": load_hf}


def load_source(source: str, choices: Choices) -> Source:
    """The model that `source` names, in evaluation mode, with the user's choices applied.

    Raises:
        EdgevitError: when the source, the weights or a choice cannot be used, saying why.
        MissingDependencyError: when the library it comes from is not installed.
    """
    kind, separator, name = source.partition(":")
    if kind in _LOADERS and separator:
        loaded = _LOADERS[kind](name, choices)
    elif separator and "/" not in kind and kind.replace(".", "").replace("_", "").isalnum():
        loaded = _factory(kind, name, choices)
    else:
        raise EdgevitError(f"model: {source!r} is not a model source; use {KINDS}")
    loaded.module.eval()
    return loaded


def _factory(module_name: str, function: str, choices: Choices) -> Source:
    origin = f"{module_name}:{function}"
    build = _import_function(module_name, function, origin)
    options = {} if choices.num_classes is None else {"num_classes": choices.num_classes}
    try:
        module = build(**options)
    except TypeError as error:
        raise EdgevitError(f"{origin} cannot be called with {options or 'no arguments'}: {error}") from error
    if not isinstance(module, torch.nn.Module):
        raise EdgevitError(f"{origin} returned a {type(module).__name__}; a torch.nn.Module is needed")
    weights, sha = given_weights(module, choices, otherwise="made by the factory")
    return from_module(module, function, choices, weights=weights, weights_sha256=sha, origin=origin)


def from_module(
    module: torch.nn.Module,
    name: str,
    choices: Choices,
    *,
    weights: str = "given in Python",
    weights_sha256: str | None = None,
    origin: str | None = None,
) -> Source:
    """A Source around a module that the caller built; its images are prepared as `choices` say."""
    module.eval()
    return Source(
        name=name,
        module=module,
        preprocessing=declared_preprocessing(f"{origin or name} brings no preprocessing", choices),
        weights=weights,
        weights_sha256=weights_sha256 or digest(module.state_dict().items()),
        labels=choices.labels,
    )


def _import_function(module_name: str, function: str, origin: str) -> Callable[..., Any]:
    # As `python -m` does: the user's own file beside them is importable.
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and module_name.startswith(error.name):
            raise EdgevitError(
                f"model: {origin}: there is no Python module {error.name!r}; use {KINDS}"
            ) from error
        raise EdgevitError(f"model: {origin} needs the Python module {error.name!r}") from error
    build = getattr(module, function, None)
    if not callable(build):
        names = [name for name in dir(module) if not name.startswith("_") and callable(getattr(module, name))]
        raise EdgevitError(f"model: {module_name} has no function {function!r}; {closest(function, names)}")
    factory: Callable[..., Any] = build
    return factory
