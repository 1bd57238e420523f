"""``edgevit predict``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from edgevit.cli import options, output

if TYPE_CHECKING:
    from edgevit.prediction import Prediction

_KINDS_SHOWN = 10


@click.command(short_help="Latency of a model on a device that it never ran on.")
@click.argument("model")
@click.option(
    "--device", metavar="NAME|FILE.yaml", required=True, help="Profile that `edgevit profile --suite` wrote."
)
@click.option(
    "--to", metavar="onnx|tflite", help="Format in which a Program runs.  [default: what was measured]"
)
@options.reporting
def command(*, model: str, device: str, to: str | None, as_json: bool, quiet: bool) -> None:
    """Predict the latency of MODEL from operators that were measured on a device.

    MODEL is an artefact (.onnx, .tflite), a Program (.pt2) or a model as `edgevit capture` takes it. It is
    predicted in the precision that it has: quantized by `edgevit compress`, in integers.
    """
    output.prepare(as_json=as_json, quiet=quiet)
    from edgevit.prediction import predict
    from edgevit.progress import working

    with working(f"predicting {model} on {device}"):
        result = predict(model, device=device, to=to)
    if as_json:
        output.print_json(result)
        return
    _print(result)


def _print(result: Prediction) -> None:
    threads = "1 thread" if result.threads == 1 else f"{result.threads} threads"
    click.echo(f"{result.model} on {result.device}, {result.runtime}, {threads}")
    click.echo(f"  predicted {result.ms:.2f} ms{_interval(result)}")
    total = sum(kind.ms for kind in result.kinds)
    for kind in result.kinds[:_KINDS_SHOWN]:
        share = 100 * kind.ms / total
        click.echo(f"    {kind.kind:<32} {kind.count:>5}  {kind.ms:>9.3f} ms  {share:>5.1f} %")
    if len(result.kinds) > _KINDS_SHOWN:
        click.echo(f"    and {len(result.kinds) - _KINDS_SHOWN} kinds more (--json)")
    for note in result.notes:
        click.echo(f"  note: {note}")


def _interval(result: Prediction) -> str:
    if result.low_ms is None or result.high_ms is None:
        return ""
    return (
        f", {result.low_ms:.2f} to {result.high_ms:.2f} ms with {100 * result.confidence:.0f} % confidence "
        f"(by {result.checked} models of other families)"
    )
