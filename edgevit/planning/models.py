"""What is planned, from files: the chain of a Program, the parts of a class-wise split."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgevit.planning.problem import Chain, Cut, Segment, Wire

if TYPE_CHECKING:
    from edgevit.graph.cutting import Chain as GraphChain
    from edgevit.graph.cutting import Cut as GraphCut
    from edgevit.graph.program import Program
    from edgevit.pruning.split import Manifest

_FLOAT = 4


def chain_of(program: Program, wires: Sequence[str] = (), *, found: GraphChain | None = None) -> Chain:
    """The chain of a Program's cuts.

    A stage holds its weights, the activations of the segment that needs most, and one copy of what it
    receives and of what it sends.

    Args:
        program: what is to run.
        wires: precisions in which floats may be sent besides as they are: "fp16", "int8".
        found: its cuts, where they are known.
    """
    from edgevit.graph.cutting import find_cuts

    found = found or find_cuts(program)
    asked = _bytes(program.input_shape)
    answered = sum(_bytes(shape) for shape in program.output_shapes)
    names = _distinct([cut.module or cut.after for cut in found.cuts])
    return Chain(
        tuple(
            Segment(f"segment {place}", segment.weight_bytes, segment.activation_bytes, segment.macs)
            for place, segment in enumerate(found.segments)
        ),
        (
            _cut("input", (Wire("fp32", asked),)),
            *(_cut(name, _wires(cut, wires)) for name, cut in zip(names, found.cuts, strict=True)),
            _cut("answer", (Wire("fp32", answered),)),
        ),
    )


def _bytes(shape: Sequence[object]) -> int:
    """Of the share of one image in a float tensor with a batch dimension."""
    return _FLOAT * math.prod(int(str(size)) for size in shape[1:])


def _distinct(names: Sequence[str]) -> list[str]:
    """Names, those that occur more often with a number behind them."""
    return [
        name if names.count(name) == 1 else f"{name} ({names[: place + 1].count(name)})"
        for place, name in enumerate(names)
    ]


def _cut(name: str, wires: tuple[Wire, ...]) -> Cut:
    return Cut(name, wires, entering_bytes=wires[0].bytes, leaving_bytes=wires[0].bytes)


def _wires(cut: GraphCut, allowed: Sequence[str]) -> tuple[Wire, ...]:
    floats = any(tensor.dtype.startswith("float") for tensor in cut.tensors)
    native = Wire("fp32" if floats else "int8", cut.bytes)
    sizes = [Wire("fp16", cut.bytes_at("fp16")), Wire("int8", cut.bytes_at("int8"))]
    return (native, *(wire for wire in sizes if wire.precision in allowed and wire.bytes < cut.bytes))


def chains_of_split(folder: Path, manifest: Manifest) -> tuple[Chain, Chain]:
    """The whole classifier that was split, as one segment; and its parts, whose order says nothing.

    Args:
        folder: that the manifest is in.
        manifest: of the split.
    """
    from edgevit.graph.program import Program

    asked = _bytes(Program.load(folder / manifest.parts[0].file).input_shape)
    question = _cut("input", (Wire("fp32", asked),))
    answer = _cut("answer", (Wire("fp32", _FLOAT * manifest.classes),))
    whole = Segment("the whole", manifest.whole.bytes, 0.0, manifest.whole.macs)
    parts = tuple(Segment(part.name, part.bytes, 0.0, part.macs) for part in manifest.parts)
    between = tuple(_cut(part.name, (Wire("fp32", part.bytes_sent),)) for part in manifest.parts[:-1])
    return Chain((whole,), (question, answer)), Chain(parts, (question, *between, answer))
