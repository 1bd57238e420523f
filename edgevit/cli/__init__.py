"""The command line: one file per command, imported when it is used."""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import signal
import sys
import traceback
import warnings
from types import FrameType
from typing import Any, NoReturn

import click

from edgevit.errors import EdgevitError, closest
from edgevit.files import abandon_staged, resumable

# In the order people meet them.
_COMMANDS = (
    *("deploy", "capture", "inspect", "prune", "split-classes"),
    *("elastic", "train-nested", "compress", "plan", "simulate"),
    *("run", "serve", "top", "worker", "stage", "keys"),
    *("export", "verify", "evaluate", "profile", "predict", "devices", "doctor"),
)

# A module of that name would stand in this package in the place of `run`, below.
_MODULES = {"run": "run_plan"}

_FAILED, _BAD_INPUT, _BUG = 1, 2, 70


class _LazyGroup(click.Group):
    """Commands are modules of this package; none is imported before it is named."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _COMMANDS:
            return None
        name = _MODULES.get(cmd_name, cmd_name.replace("-", "_"))
        command: click.Command = importlib.import_module(f"edgevit.cli.{name}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in _COMMANDS:
            raise click.UsageError(f"{args[0]!r} is no command; {closest(args[0], _COMMANDS)}")
        return super().resolve_command(ctx, args)


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="edgevit", message="edgevit %(version)s")
def program() -> None:
    """Take a Vision Transformer from PyTorch to the edge.

    MODEL is timm:NAME, hf:ID_OR_DIR, package.module:factory, or a .pt2 file that `edgevit capture` wrote.
    """


def main() -> None:
    """Run the command line and exit.

    0 done, 1 a check failed, 2 bad input, 3 something is not installed, 70 a bug, 130 interrupted.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    sys.exit(run(sys.argv[1:]))


def _stop(number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001
    """End at once, and leave nothing half-written.

    An exception would be Python's way; raised while torch's library is being loaded it passes through
    C++ frames that cannot unwind it, and the process aborts.
    """
    abandon_staged()
    left = next((path for path in resumable if path.exists()), None)
    written = "nothing was written" if left is None else f"repeat the command to go on from {left}"
    with contextlib.suppress(OSError):
        os.write(2, f"error: interrupted; {written}\n".encode())
    os._exit(128 + number)


def run(arguments: list[str]) -> int:
    """Run one command; its exit status. Every failure, and every warning, is a line on standard error."""
    with warnings.catch_warnings():
        warnings.showwarning = _warn
        return _run(arguments)


def _warn(message: Warning | str, *_: Any, **__: Any) -> None:
    click.echo(f"warning: {' '.join(str(message).split())}", err=True)


def _run(arguments: list[str]) -> int:
    try:
        program.main(arguments, prog_name="edgevit", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return error.exit_code
    except BrokenPipeError:
        # The reader of our output went away (`| head`); Python would complain again while closing it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _FAILED
    # The last resort as well: a bug is reported without a page of traceback.
    except Exception as error:  # noqa: BLE001
        if os.environ.get("EDGEVIT_DEBUG"):
            traceback.print_exc()
        sentence, status = _explain(error)
        click.echo(f"error: {sentence}", err=True)
        return status
    return 0


def _explain(error: BaseException) -> tuple[str, int]:
    """One sentence, and the exit status."""
    match error:
        case EdgevitError():
            return str(error), error.exit_code
        case click.ClickException():
            return error.format_message().replace("\n", " "), error.exit_code
        case OSError():
            return _describe(error), _BAD_INPUT
    return (
        f"{type(error).__name__}: {error}; this is a bug in edgevit, please report it with the traceback "
        "that EDGEVIT_DEBUG=1 prints",
        _BUG,
    )


def _describe(error: OSError) -> str:
    what = "the disk is full" if error.errno == errno.ENOSPC else error.strerror or str(error)
    return f"{error.filename}: {what}" if error.filename else what
