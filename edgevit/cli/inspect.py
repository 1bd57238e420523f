"""``edgevit inspect``."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgevit.cli import options, output
from edgevit.errors import EdgevitError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edgevit.export.placement import BackendPlacement
    from edgevit.graph.axes import Axis
    from edgevit.graph.cutting import Chain, Cut
    from edgevit.graph.inspection import Inspection
    from edgevit.graph.program import Program
    from edgevit.quant.bridges import Bridge

_ARTEFACTS = (".onnx", ".tflite", ".mlpackage")


@click.command(short_help="Show what is in a Program or an artefact, and where its operators run.")
@click.argument("file")
@click.option(
    "--device", metavar="NAME", help="Of an artefact: only this device's backends (edgevit devices)."
)
@click.option(
    "--blocks", is_flag=True, help="Of a Program: its bridge blocks and reconstruction blocks as well."
)
@click.option("--axes", is_flag=True, help="Of a Program: what can shrink, and what may not, as well.")
@click.option("--cuts", is_flag=True, help="Of a Program: where it can be cut into stages, as well.")
@options.reporting
def command(
    file: str, *, device: str | None, blocks: bool, axes: bool, cuts: bool, as_json: bool, quiet: bool
) -> None:
    """Show what FILE holds.

    Of a Program, a .pt2 file: the card, the operators, the size and the cost. Of an artefact, .onnx,
    .tflite or .mlpackage: its operators, and which of them each backend takes, and why not the others.
    """
    output.prepare(as_json=as_json, quiet=quiet)
    if Path(file).suffix in _ARTEFACTS:
        given = [name for name, wanted in (("blocks", blocks), ("axes", axes), ("cuts", cuts)) if wanted]
        if given:
            raise EdgevitError(
                f"--{given[0]}: {file} is an artefact; {given[0]} are of a Program, a .pt2 file"
            )
        _inspect_artefact(file, device, as_json=as_json)
        return
    if device is not None:
        raise EdgevitError(
            f"--device: {file} is no artefact, and no device runs anything else; export it, then inspect that"
        )
    _inspect_program(file, blocks=blocks, axes=axes, cuts=cuts, as_json=as_json)


def _inspect_program(file: str, *, blocks: bool, axes: bool, cuts: bool, as_json: bool) -> None:
    from edgevit.graph.axes import find_axes
    from edgevit.graph.cutting import find_cuts
    from edgevit.graph.inspection import inspect
    from edgevit.graph.program import Program
    from edgevit.graph.rewrites import prepare_for_export

    program = Program.load(file)
    found = inspect(program)
    parts = _parts(program) if blocks else None
    shrinking = find_axes(prepare_for_export(program)) if axes else None
    chain = find_cuts(program) if cuts else None
    if as_json:
        extra: dict[str, object] = {} if shrinking is None else {"axes": shrinking}
        if chain is not None:
            extra |= {"cuts": [_cut_as_json(cut) for cut in chain.cuts], "segments": chain.segments}
        output.print_json({**vars(found), **({} if parts is None else vars(parts)), **extra})
        return
    _print_inspection(found)
    if parts is not None:
        _print_parts(parts)
    if shrinking is not None:
        _print_axes(shrinking)
    if chain is not None:
        _print_cuts(chain, found)


def _print_inspection(found: Inspection) -> None:
    from edgevit.graph.card import IMAGE
    from edgevit.graph.inspection import describe_count

    card = found.card
    part = "" if card.stage is None else f", stage {card.stage}"
    rows = {
        "model": f"{card.name}{part} ({card.provenance.source}, weights: {card.provenance.weights})",
        "weights sha256": card.provenance.weights_sha256,
        "licence": card.licence or "not said",
        "images": card.preprocessing.describe() if IMAGE in card.inputs else "none",
        "inputs": _shapes(found.input_shapes),
        "outputs": _shapes(found.output_shapes),
        "labels": f"{len(card.labels)} ({', '.join(card.labels[:3])}, ...)" if card.labels else "none",
        "parameters": f"{describe_count(found.parameters)} ({output.megabytes(found.weight_bytes)})",
        "cost": f"{describe_count(found.macs)} multiply-accumulates an image",
        "steps": ", ".join(step.name for step in card.steps) or "none",
    }
    for name, value in rows.items():
        click.echo(f"{name:>15}  {value}")
    click.echo(
        f"{'operators':>15}  {len(found.operators)} kinds, {sum(o.count for o in found.operators)} in all"
    )
    for operator in found.operators:
        click.echo(f"{operator.count:>15}  {operator.operator}")


@dataclass(frozen=True)
class _Parts:
    """What quantization takes a Program apart into."""

    bridges: tuple[Bridge, ...]
    blocks: tuple[_Block, ...]


@dataclass(frozen=True)
class _Block:
    """A reconstruction block and what it weighs."""

    kind: str
    name: str
    parameters: int
    macs: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[str, ...]


def _parts(program: Program) -> _Parts:
    from edgevit.quant.blocks import block_costs, find_blocks
    from edgevit.quant.bridges import find_bridges

    blocks = find_blocks(program)
    costs = block_costs(program, blocks)
    return _Parts(
        find_bridges(program),
        tuple(_Block(**vars(block), **vars(cost)) for block, cost in zip(blocks, costs, strict=True)),
    )


def _print_parts(parts: _Parts) -> None:
    from edgevit.graph.inspection import describe_count

    count = len(parts.bridges)
    click.echo(f"{'bridge blocks':>15}  {count or 'none: no convolution stage meets a transformer stage'}")
    for bridge in parts.bridges:
        click.echo(f"{bridge.direction:>15}  {bridge.description}")
    click.echo(f"{'blocks':>15}  {len(parts.blocks)}")
    width = max((len(block.name) for block in parts.blocks), default=0)
    for block in parts.blocks:
        click.echo(
            f"{block.kind:>15}  {block.name:{width}}  {describe_count(block.parameters):>8} parameters, "
            f"{describe_count(block.macs):>8} multiply-accumulates"
        )


def _print_axes(axes: Sequence[Axis]) -> None:
    free, fixed = [axis for axis in axes if not axis.fixed], [axis for axis in axes if axis.fixed]
    click.echo(f"{'axes':>15}  {len(free)}")
    width = max((len(axis.name) for axis in free), default=0)
    for axis in free:
        tensors = len({touch.path for touch in axis.touches})
        click.echo(
            f"{axis.size:>15}  {axis.name:{width}}  in {tensors} tensors, "
            f"{100 * axis.share:.1f} % of the model"
        )
    click.echo(f"{'fixed':>15}  {len(fixed)}")
    for reason, count in Counter(axis.fixed for axis in fixed).most_common():
        click.echo(f"{count:>15}  {reason}")


def _cut_as_json(cut: Cut) -> dict[str, object]:
    """A cut, and the bytes of one image that cross it: as they are, and floats being sent in a precision."""
    from edgevit.graph.crossing import WIRE_PRECISIONS

    sent = {precision: cut.bytes_at(precision) for precision in WIRE_PRECISIONS}
    return {**vars(cut), "bytes": cut.bytes, "bytes_at": sent}


def _print_cuts(chain: Chain, found: Inspection) -> None:
    places = [f"{cut.module}, {cut.after}" if cut.module else cut.after for cut in chain.cuts]
    width = max(map(len, places), default=0)
    click.echo(
        f"{'cuts':>15}  {len(chain.cuts)}; bytes are of one image, arithmetic and weights before the cut"
    )
    click.echo(f"{'bytes':>15}  {'arithmetic':>10}  {'weights':>7}  {'behind':{width}}  what crosses")
    for cut, place in zip(chain.cuts, places, strict=True):
        tensors = ", ".join(f"{tensor.name} {_shape(tensor.shape)} {tensor.dtype}" for tensor in cut.tensors)
        arithmetic, weights = (
            f"{100 * part / max(whole, 1):.1f} %"
            for part, whole in ((cut.macs, found.macs), (cut.weight_bytes, found.weight_bytes))
        )
        click.echo(f"{cut.bytes:>15,}  {arithmetic:>10}  {weights:>7}  {place:{width}}  {tensors}")


def _shapes(shapes: Mapping[str, tuple[int | str, ...]]) -> str:
    return ", ".join(f"{name} {_shape(shape)}" for name, shape in shapes.items())


def _shape(shape: tuple[int | str, ...]) -> str:
    return "x".join(str(size) for size in shape)


def _inspect_artefact(artefact: str, device: str | None, *, as_json: bool) -> None:
    from edgevit.export.placement import placement

    found = placement(artefact, device=device)
    if as_json:
        output.print_json(found)
        return
    click.echo(f"{found.artefact}  {output.operators_line(found)}")
    for kind in found.operators:
        click.echo(f"{kind.count:>15}  {kind.kind}")
    click.echo("where they run" if found.device is None else f"where they run on {found.device}")
    for backend in found.backends:
        _print_backend(backend)
    for name in found.unknown:
        click.echo(f"  {name}: there is no table of what it takes")


def _print_backend(backend: BackendPlacement) -> None:
    pieces = "1 partition" if backend.partitions == 1 else f"{backend.partitions} partitions"
    click.echo(
        f"  {backend.runtime} via {backend.via} ({backend.unit}): takes {backend.taken} of {backend.total}, "
        f"{pieces if backend.loads else 'does not load'}  [{backend.basis}, {backend.release}]"
    )
    for fallback in backend.fallbacks:
        click.echo(f"{fallback.count:>15}  {fallback.kind}: {fallback.reason}")
    if backend.fallbacks:
        click.echo(f"{'':>15}  what runs them: {backend.otherwise}")
