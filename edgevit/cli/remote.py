"""Options that say how a device is used that is not this machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from edgevit.profiling import Remote

F = TypeVar("F", bound=Callable[..., Any])

_OPTIONS = (
    click.option("--python", metavar="PATH", help="Of the device (ssh), ~ allowed.  [default: python3]"),
    click.option("--ssh-config", metavar="FILE", help="Instead of ~/.ssh/config."),
    click.option("--remote-folder", metavar="DIR", help="Of the device, for files while they run."),
    click.option("--benchmark-model", metavar="FILE", help="LiteRT's tool, built for the device (adb)."),
)


def remote(function: F) -> F:
    """Give a command these options; `remote_of` takes what was given."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def remote_of(
    python: str | None, ssh_config: str | None, remote_folder: str | None, benchmark_model: str | None
) -> Remote:
    """What the options say."""
    from edgevit.files import existing_file
    from edgevit.profiling import Remote

    return Remote(
        python or Remote.python,
        remote_folder,
        None if ssh_config is None else existing_file(ssh_config, "--ssh-config"),
        None if benchmark_model is None else existing_file(benchmark_model, "--benchmark-model"),
    )
