"""Options that several commands share, with the types that read them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


class Size(click.ParamType[Any]):
    """``224`` or ``224x192`` (height x width), in pixels."""

    name = "pixels"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        """Read a size."""
        if isinstance(value, tuple):
            return value
        parts = str(value).lower().split("x")
        if len(parts) in (1, 2) and all(part.isascii() and part.isdigit() and int(part) for part in parts):
            return (int(parts[0]), int(parts[-1]))
        return self.fail(f"{value!r} is not a size; write 224 or 224x192 (height x width)", param, ctx)


class Resize(click.ParamType[Any]):
    """``256`` (short edge), ``64x64`` (exactly) or ``none``."""

    name = "pixels"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | tuple[int, int] | str:
        """Read a resize rule."""
        text = str(value).lower()
        if text == "none":
            return text
        if "x" not in text and text.isascii() and text.isdigit() and int(text):
            return int(text)
        if "x" in text:
            return Size().convert(text, param, ctx)
        return self.fail(f"{value!r} is no resize; write 256 (short edge), 64x64 or none", param, ctx)


class Channels(click.ParamType[Any]):
    """``0.5`` for all three channels, or ``0.485,0.456,0.406``."""

    name = "numbers"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, ...]:
        """Read one number per channel."""
        try:
            numbers = tuple(float(part) for part in str(value).split(","))
        except ValueError:
            numbers = ()
        if len(numbers) not in (1, 3):
            return self.fail(f"{value!r}; write one number, or three with commas between them", param, ctx)
        return numbers * 3 if len(numbers) == 1 else numbers


class Batch(click.ParamType[Any]):
    """A number of images, or ``dynamic``."""

    name = "images"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        """Read a batch size."""
        if value == "dynamic" or isinstance(value, int):
            return "dynamic" if value == "dynamic" else value
        if str(value).isascii() and str(value).isdigit() and int(value):
            return int(value)
        return self.fail(f"{value!r} is no batch; write a number of images or dynamic", param, ctx)


class Opset(click.ParamType[Any]):
    """A number, or ``fastest``; which numbers there are is the exporter's to say."""

    name = "opset"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:  # noqa: ARG002
        """Read an opset."""
        text = str(value)
        return int(text) if text.isascii() and text.isdigit() else text


def _stack(*decorators: Callable[[F], F]) -> Callable[[F], F]:
    def apply(function: F) -> F:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return apply


def reporting(function: F) -> F:
    """``--json`` and ``--quiet``."""
    return _stack(
        click.option("--json", "as_json", is_flag=True, help="Print the result as JSON."),
        click.option("-q", "--quiet", is_flag=True, help="Show no progress."),
    )(function)


def source_choices(function: F) -> F:
    """What may be said about a MODEL."""
    return _stack(
        click.option(
            "--weights", metavar="FILE|random", help="Weights: safetensors, or torch (weights only)."
        ),
        click.option("--num-classes", type=int, help="Classes of the classifier."),
        click.option("--input-size", type=Size(), help="Network input, 224 or 224x192 (height x width)."),
        click.option(
            "--resize", type=Resize(), help="Before the centre crop: 256 (short edge), 64x64 or none."
        ),
        click.option("--interpolation", metavar="NAME", help="bilinear, bicubic, opencv-cubic, ..."),
        click.option("--mean", type=Channels(), help="Of images scaled to 0..1: 0.5 or 0.485,0.456,0.406."),
        click.option("--std", type=Channels(), help="Likewise."),
        click.option("--labels", metavar="FILE", help="Class names, one a line, in the order of the logits."),
        click.option("--name", help="What to call the model."),
    )(function)


data = click.option(
    "--data", metavar="DIR", required=True, help="Labelled images: class folders or labels.csv."
)
output_folder = click.option(
    "-o", "--output", "output_dir", metavar="DIR", required=True, help="Folder to write."
)
flip = click.option("--flip", is_flag=True, help="Train on images mirrored left to right as well.")
crop_padding = click.option(
    "--crop-padding",
    type=click.IntRange(min=0),
    metavar="PIXELS",
    default=0,
    show_default=True,
    help="Train on images shifted by so much at most.",
)
precision = click.option(
    "--precision",
    metavar="NAME",
    default="float32",
    show_default=True,
    help="Of the arithmetic of training: float32 or bfloat16.",
)
formats = click.option("--to", default="onnx", show_default=True, help="Formats, with commas between them.")
target = click.option(
    "--target", metavar="DEVICE", help="Choose what follows for a device (`edgevit devices` lists them)."
)
batch = click.option(
    "--batch", type=Batch(), metavar="N|dynamic", help="Images per run (ONNX).  [default: 1]"
)


def export_choices(function: F) -> F:
    """What may be said about an export; each format knows some of it."""
    return _stack(
        batch,
        click.option("--precision", metavar="fp32|fp16", help="ONNX, TFLite (default fp32), Core ML (fp16)."),
        click.option(
            "--opset", type=Opset(), metavar="20|23|fastest", help="Of ONNX operators.  [default: 20]"
        ),
        click.option("--optimize", metavar="ort", help="Fuse for ONNX Runtime alone (ONNX)."),
        click.option(
            "--check-opencv", is_flag=True, default=None, help="Also run it in OpenCV's dnn (ONNX)."
        ),
        click.option("--layout", metavar="nchw|nhwc", help="Of the input (TFLite).  [default: nchw]"),
        click.option(
            "--integer-io",
            is_flag=True,
            default=None,
            help="Integers in and out of a quantized model (TFLite).",
        ),
        click.option("--coreml-input", metavar="image|tensor", help="Core ML's input.  [default: image]"),
        click.option(
            "--minimum-ios", metavar="16|17|18", help="Oldest iOS (Core ML).  [default: 16; 17 if quantized]"
        ),
    )(function)


def links(function: F) -> F:
    """How a process meets others."""
    return _stack(
        click.option(
            "--listen", multiple=True, metavar="HOST:PORT", help="Address at which it can be reached."
        ),
        click.option("--connect", multiple=True, metavar="HOST:PORT", help="Address that it reaches out to."),
        click.option("--tls", metavar="DIR", help="Keys that `edgevit keys device` wrote."),
        click.option("--insecure", is_flag=True, help="Allow addresses beyond this machine without keys."),
    )(function)


def placing(function: F) -> F:
    """Where a plan runs, and how."""
    return _stack(
        click.option("--model", metavar="FILE", help="What was planned, where it is not as the plan says."),
        click.option(
            "--local",
            is_flag=False,
            flag_value="0",
            type=click.IntRange(min=0),
            metavar="[N]",
            help="Start workers on this machine, for the plan's first N devices.  [default of N: all]",
        ),
        links,
        click.option(
            "--in-flight", type=int, metavar="N", help="Requests on their way at once.  [default: 2 a device]"
        ),
        click.option(
            "--patience",
            type=float,
            default=5.0,
            show_default=True,
            metavar="SECONDS",
            help="Look for a request that has no answer by then.",
        ),
        click.option(
            "--spares/--no-spares",
            default=True,
            show_default=True,
            help="Send ahead what the plans for lost devices need.",
        ),
        click.option(
            "--wait",
            type=float,
            default=120.0,
            show_default=True,
            metavar="SECONDS",
            help="For devices to come and be ready.",
        ),
    )(function)


strict = click.option("--strict", is_flag=True, help="Fail, and write nothing, when verification fails.")
force = click.option("--force", is_flag=True, help="Replace what is there.")
threads = click.option("--threads", type=int, help="Threads of the runtime.  [default: all cores]")
on_bad_image = click.option(
    "--on-bad-image",
    default="fail",
    show_default=True,
    metavar="skip|fail",
    help="About unusable image files.",
)


def shares_of(text: str) -> tuple[float, ...]:
    """What ``--widths`` asks for.

    Raises:
        UsageError: when they are no numbers.
    """
    try:
        return tuple(float(word) for word in text.split(","))
    except ValueError as error:
        raise click.UsageError(f"--widths {text}: give shares, such as 0.25,0.5,0.75") from error


_AMOUNT = re.compile(r"(\d+(?:\.\d+)?)\s*([kKMG]?)B?")


def amount_of(option: str, text: str) -> int:
    """A budget, such as ``0.4G`` or ``3MB``; k, M and G are powers of a thousand.

    Raises:
        UsageError: when it is none, or nothing.
    """
    found = _AMOUNT.fullmatch(text.strip())
    amount = (
        int(float(found[1]) * {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}[found[2].upper()]) if found else 0
    )
    if amount < 1:
        raise click.UsageError(f"--{option} {text}: is no amount; write 0.4G, 300M or 3MB")
    return amount


def yaml_output(option: str, text: str, *, force: bool) -> Path:
    """Where a YAML file is to be written.

    Raises:
        UsageError: when its name does not end as YAML's do.
        EdgevitError: when something is in the way.
    """
    from edgevit.files import check_output

    path = Path(text)
    if path.suffix not in {".yaml", ".yml"}:
        raise click.UsageError(f"--{option} {path}: is written as YAML; end its name in .yaml")
    check_output(path, force=force)
    return path


_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(us|ms|s)")


def duration_of(option: str, text: str) -> int:
    """A time, such as ``12ms``, in nanoseconds.

    Raises:
        UsageError: when it is none, or nothing.
    """
    found = _DURATION.fullmatch(text.strip())
    nanoseconds = round(float(found[1]) * {"us": 10**3, "ms": 10**6, "s": 10**9}[found[2]]) if found else 0
    if nanoseconds < 1:
        raise click.UsageError(f"--{option} {text}: is no time; write 12ms or 0.5s")
    return nanoseconds
