"""The command line: one file per command, imported when it is used."""

from __future__ import annotations

import errno
import importlib
import os
import sys
import traceback

import click

from edgevit.errors import EdgevitError, closest

# In the order people meet them.
_COMMANDS = ("deploy", "capture", "inspect", "export", "verify", "evaluate", "profile", "devices", "doctor")

_INTERRUPTED = 130
_BUG = 70


class _LazyGroup(click.Group):
    """Commands are modules of this package; none is imported before it is named."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"edgevit.cli.{cmd_name}").command
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
    """Run the command line and exit: 0 done, 1 a check failed, 2 bad input, 3 something not installed."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command; its exit status. Every failure is one sentence on standard error."""
    try:
        program.main(arguments, prog_name="edgevit", standalone_mode=False)
    except EdgevitError as error:
        return _fail(str(error), error.exit_code)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return error.exit_code
    except click.ClickException as error:
        return _fail(error.format_message().replace("\n", " "), error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        return _fail("interrupted; nothing was written", _INTERRUPTED)
    except BrokenPipeError:
        # The reader of our output went away (`| head`); Python would complain again while closing it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        return _fail(_describe(error), 2)
    except Exception:  # noqa: BLE001 - the last resort: a bug, reported without a page of traceback
        if os.environ.get("EDGEVIT_DEBUG"):
            traceback.print_exc()
        kind, value, _ = sys.exc_info()
        return _fail(
            f"{kind.__name__ if kind else ''}: {value}; this is a bug in edgevit, please report it with the "
            "traceback that EDGEVIT_DEBUG=1 prints",
            _BUG,
        )
    return 0


def _fail(sentence: str, status: int) -> int:
    click.echo(f"error: {sentence}", err=True)
    return status


def _describe(error: OSError) -> str:
    what = error.strerror or str(error)
    if error.errno == errno.ENOSPC:
        what = "the disk is full"
    return f"{error.filename}: {what}" if error.filename else what
