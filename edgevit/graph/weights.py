"""Weights files: read without running anything in them, and loaded whole or refused with the reason."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch

from edgevit.errors import EdgevitError
from edgevit.files import existing_file

# Where training scripts keep the model inside a checkpoint.
_CONTAINERS = ("state_dict_ema", "state_dict", "model_state_dict", "model")


def read_weights(path: str | Path) -> dict[str, torch.Tensor]:
    """Tensors by name, from a safetensors file or a torch file.

    A torch file is read with ``weights_only=True``, so nothing in it can run. Of a training
    checkpoint, the entry named ``state_dict_ema``, ``state_dict``, ``model_state_dict`` or ``model``
    (the first that is there) is taken, and a ``module.`` prefix left by data-parallel training is
    removed.

    Raises:
        EdgevitError: when the file is missing, damaged, would need unpickling, or holds no tensors.
    """
    path = existing_file(path, "--weights")
    loaded = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    nested = (loaded.get(key) for key in _CONTAINERS)
    state = next((value for value in nested if isinstance(value, Mapping)), loaded)
    tensors = {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        raise EdgevitError(f"--weights: {path} holds no tensors")
    if all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    return tensors


def _read_safetensors(path: Path) -> Mapping[str, object]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise EdgevitError(f"--weights: {path} is not a valid safetensors file: {error}") from error


def _read_torch(path: Path) -> Mapping[str, object]:
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise EdgevitError(
            f"--weights: {path} cannot be read as plain tensors (edgevit never unpickles other objects); "
            "save its state_dict() with safetensors"
        ) from error
    # On bytes that are no torch file, its reader raises whatever it stumbles over.
    except Exception as error:
        raise EdgevitError(f"--weights: {path} is neither a torch nor a safetensors file") from error
    if not isinstance(loaded, Mapping):
        raise EdgevitError(f"--weights: {path} holds a {type(loaded).__name__}, not a state_dict")
    return loaded


def load_into(module: torch.nn.Module, weights: Mapping[str, torch.Tensor], origin: str) -> None:
    """Load every tensor into the module; a name or shape that does not fit is refused, none is skipped.

    Raises:
        EdgevitError: naming the first tensors that do not fit, and the likely option to set.
    """
    own = module.state_dict()
    for name in own.keys() & weights.keys():
        if own[name].shape != weights[name].shape:
            raise EdgevitError(_shape_fault(name, own[name].shape, weights[name].shape, origin))
    absent, surplus = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    if absent or surplus:
        faults = []
        if absent:
            faults.append(f"it lacks {len(absent)} tensors of the model ({_some(absent)})")
        if surplus:
            faults.append(f"it has {len(surplus)} that the model lacks ({_some(surplus)})")
        raise EdgevitError(f"--weights: {origin} is of another model: {' and '.join(faults)}")
    module.load_state_dict(weights)


def _shape_fault(name: str, expected: torch.Size, found: torch.Size, origin: str) -> str:
    sentence = f"--weights: {name} in {origin} is {_size(found)}, the model's is {_size(expected)}"
    if len(found) == len(expected) and found[1:] == expected[1:]:
        sentence += f"; if it is the classifier, pass --num-classes {found[0]}"
    return sentence


def _size(shape: torch.Size) -> str:
    return "x".join(str(size) for size in shape) or "a scalar"


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def digest(tensors: Iterable[tuple[str, torch.Tensor]]) -> str:
    """Hex SHA-256 over names, types, shapes and bytes, whatever file they are in."""
    sha = hashlib.sha256()
    for name, tensor in sorted(tensors, key=lambda item: item[0]):
        data = tensor.detach().cpu().contiguous()
        sha.update(f"{name}\0{data.dtype}\0{tuple(data.shape)}\0".encode())
        sha.update(data.reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()
