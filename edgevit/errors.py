"""The errors a user can cause, each one sentence: what is wrong, where, and what would be right."""

from __future__ import annotations

import difflib
from collections.abc import Collection


class EdgevitError(Exception):
    """Base of every error that is the user's to fix; the command line prints it and nothing else.

    The message is one sentence that names the file or option. Anything that is not an
    ``EdgevitError`` is a bug in edgevit and keeps its traceback.
    """

    exit_code = 2


class MissingDependencyError(EdgevitError):
    """An optional library is not installed; the message ends with the command that installs it."""

    exit_code = 3


class CheckFailedError(EdgevitError):
    """The work was done, and a check on its result failed."""

    exit_code = 1


def closest(wrong: str, choices: Collection[str], *, shown: int = 12) -> str:
    """Words that follow an unknown name: the nearest choice, then the list when it is short.

    >>> closest("onxx", ["onnx", "tflite"])
    'did you mean "onnx"? Known: onnx, tflite'
    >>> closest("zzz", ["onnx", "tflite"])
    'known: onnx, tflite'
    """
    matches = difflib.get_close_matches(wrong, choices, n=3)
    known = f"known: {', '.join(sorted(choices))}" if len(choices) <= shown else ""
    if not matches:
        return known or f"{len(choices)} are known, none is close"
    guess = "did you mean " + " or ".join(f'"{match}"' for match in matches) + "?"
    return f"{guess} {known[:1].upper()}{known[1:]}".rstrip()
