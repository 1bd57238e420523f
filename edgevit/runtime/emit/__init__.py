"""A plan as files for those who run services: KServe, Triton, Docker Compose, systemd."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, get_args

from edgevit.errors import EdgevitError, closest
from edgevit.files import staged_folder
from edgevit.runtime.emit import compose, kserve, systemd, triton
from edgevit.runtime.emit.options import EmitOptions, check_options
from edgevit.runtime.emit.source import Source, open_source

Target = Literal["kserve", "triton", "compose", "systemd"]
TARGETS: tuple[Target, ...] = get_args(Target)

#: Each writes into a folder, and says what people must know or do.
_WRITERS: Mapping[Target, Callable[[Source, Path, EmitOptions], list[str]]] = {
    "kserve": kserve.write,
    "triton": triton.write,
    "compose": compose.write,
    "systemd": systemd.write,
}


def emit(
    plan: str | Path, target: Target, output: str | Path, options: EmitOptions | None = None
) -> list[str]:
    """Write a plan's files for a target; its stages are exported as they are to be run.

    Args:
        plan: the plan file.
        target: one of `TARGETS`.
        output: folder to write.
        options: what the target needs to know.

    Returns:
        What people must know of the files, or do with them, a sentence each.

    Raises:
        EdgevitError: when an option is missing or not of this target, the plan cannot be carried out there,
            or the folder is not empty.
        CheckFailedError: when an exported file does not compute what the model does.
    """
    if target not in TARGETS:
        raise EdgevitError(f"--for {target}: {closest(target, TARGETS)}")
    options = options or EmitOptions()
    check_options(target, options)
    folder = Path(output)
    _check_empty(folder, force=options.force)
    source = open_source(Path(plan), options)
    with staged_folder(folder) as stage:
        return _WRITERS[target](source, stage, options)


def _check_empty(folder: Path, *, force: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise EdgevitError(f"{folder} is a file; a folder is needed for the output")
    if not force and folder.is_dir() and any(folder.iterdir()):
        raise EdgevitError(f"{folder} is not empty; choose another folder, or pass --force to replace in it")


__all__ = ["TARGETS", "EmitOptions", "Target", "emit"]
