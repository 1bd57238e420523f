"""Doctor: what of edgevit works on this machine, and the command that brings the rest."""

from __future__ import annotations

import platform
from dataclasses import dataclass

from edgevit.extras import EXTRAS, missing, version_of

_CORE = ("torch", "cv2", "numpy", "safetensors", "pydantic")


@dataclass(frozen=True)
class ExtraStatus:
    """Whether one extra is installed.

    Attributes:
        name: the extra.
        versions: what it has installed, by import name.
        missing: import names that are not there.
        install: the command that installs it; None where nothing is missing.
    """

    name: str
    versions: dict[str, str]
    missing: tuple[str, ...]
    install: str | None


@dataclass(frozen=True)
class Diagnosis:
    """The machine and its Python, as far as edgevit is concerned.

    Attributes:
        edgevit: version.
        python: version.
        system: operating system and processor.
        cores: cores this process may use.
        cuda: whether torch sees a CUDA device.
        core: versions of the libraries every command needs.
        extras: one entry per extra.
    """

    edgevit: str
    python: str
    system: str
    cores: int
    cuda: bool
    core: dict[str, str]
    extras: tuple[ExtraStatus, ...]


def doctor() -> Diagnosis:
    """Look at what is installed. Nothing is installed, changed or downloaded."""
    import torch

    from edgevit.profiling.local import usable_cores

    return Diagnosis(
        edgevit=version_of("edgevit") or "not installed",
        python=platform.python_version(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        cores=usable_cores(),
        cuda=torch.cuda.is_available(),
        core={name: version_of(name) or "missing" for name in _CORE},
        extras=tuple(_extra_status(name) for name in EXTRAS),
    )


def _extra_status(name: str) -> ExtraStatus:
    absent = tuple(missing(name))
    return ExtraStatus(
        name=name,
        versions={module: version_of(module) or "" for module in EXTRAS[name] if module not in absent},
        missing=absent,
        install=f'pip install "edgevit[{name}]"' if absent else None,
    )
