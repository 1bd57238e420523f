"""Where integers pay on this machine: candidates measured for each region, and the fastest placement chosen.

A region is all layers of one kind at one resolution: what an integer kernel gains there, and what the
quantize / dequantize pairs at its borders cost, is the same for all of them. Each candidate is a whole
artefact with one region quantized, timed in turns with the float one, so that everything a runtime fuses,
or fails to fuse, is in the figure.
"""

from __future__ import annotations

import math
import operator
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.fx import Node

from edgevit import extras
from edgevit.errors import EdgevitError, closest
from edgevit.export.formats import FORMATS, ExportChoices
from edgevit.graph.program import Program
from edgevit.graph.rewrites import prepare_for_export
from edgevit.profiling.local import check_profilable
from edgevit.profiling.relative import TIMED
from edgevit.profiling.turns import medians_in_turns
from edgevit.progress import track
from edgevit.quant.dynamic import DYNAMIC_BITS
from edgevit.quant.enclosing import with_enclosed
from edgevit.quant.insertion import insert_quantizers
from edgevit.quant.levels import Level, Levels, groups
from edgevit.quant.observation import Observed
from edgevit.quant.operators import is_layer, weight_of
from edgevit.quant.placing import excluded
from edgevit.quant.precision import BitWidths
from edgevit.quant.ranges import start
from edgevit.quant.silu import spell_out_silu

# A gain below this share of the float model's time is within the noise of the measurement.
_SMALLEST_GAIN = 0.005
# So much slower a plan may be that rounds less: what tells two plans apart that are as near is chance, while
# what a rounding costs in accuracy is sure.
_ABOUT = 0.05

# The level of each region, in their order.
Plan = tuple[Level, ...]


@dataclass(frozen=True)
class Candidate:
    """One region at one level.

    Attributes:
        region: its kind and resolution, in words.
        layers: how many it has.
        level: "DYNAMIC", "INPUTS" or "INTEGER".
        ratio: time of the whole artefact with this region quantized, relative to the float one; what the
            borders of the region cost is in it.
        chosen: whether the chosen placement has the region at this level.
    """

    region: str
    layers: int
    level: str
    ratio: float
    chosen: bool


@dataclass(frozen=True)
class MeasuredPlacement:
    """What was measured, and chosen.

    Attributes:
        format: whose runtime it was measured in.
        float_ms: median time of the float artefact, one thread.
        candidates: every region at every level.
        ratio: time of the chosen placement relative to float; not below 1 where float itself is fastest.
        levels: the chosen one, by node name of the prepared graph: the fastest with integers in it, or one
            that rounds less and is about as fast.
    """

    format: str
    float_ms: float
    candidates: tuple[Candidate, ...]
    ratio: float
    levels: Levels

    @property
    def pays(self) -> bool:
        """Whether any placement was faster than float."""
        return self.ratio < 1 - _SMALLEST_GAIN


def measure_placement(
    program: Program, *, to: str, bits: BitWidths, exclude: Sequence[str] = ()
) -> MeasuredPlacement:
    """Choose the placement of integers that is fastest on this machine, on one thread.

    What stands between integers is integer, too (`edgevit.quant.enclosing`), in all that is measured.

    Scales do not change how long a kernel takes, so that no calibration is needed here.

    Args:
        program: a float Program.
        to: the format whose runtime counts: "onnx" or "tflite".
        bits: of weights and activations.
        exclude: patterns of layers that stay float, as for `quantize`.

    Raises:
        EdgevitError: when the format cannot be timed here, or activations or all layers stay float.
    """
    if to not in TIMED:
        raise EdgevitError(f"--to: {to!r} cannot be timed on this machine; {closest(to, TIMED)}")
    if bits.activations is None:
        raise EdgevitError("--placement measured: with float activations there is nothing to place")
    extras.require(check_profilable(FORMATS[to].file), "measuring placements")
    prepared = prepare_for_export(program)
    regions = _regions(prepared, excluded(prepared.graph, exclude))
    if not regions:
        raise EdgevitError(
            f"{program.card.name} has no layer to quantize{' after --exclude' if exclude else ''}"
        )
    tried = [(name, level) for name in regions for level in _levels(to, name, bits)]
    with tempfile.TemporaryDirectory() as folder:
        bench = _Bench(prepared, to, bits, Path(folder))
        ratios = {
            key: bench.ratio(dict.fromkeys(regions[key[0]], key[1]))
            for key in track(tried, f"measuring placements in {to}", len(tried))
        }
        best, ratio = _fastest(bench, regions, ratios)
        return MeasuredPlacement(
            format=to,
            float_ms=bench.float_ms,
            candidates=tuple(
                # All layers of a region have one level.
                Candidate(
                    name, len(regions[name]), level.name, taken, chosen=best.get(regions[name][0]) is level
                )
                for (name, level), taken in ratios.items()
            ),
            ratio=ratio,
            levels=best,
        )


def layer_gains(
    program: Program, placement: MeasuredPlacement, *, exclude: Sequence[str] = ()
) -> dict[str, float]:
    """Milliseconds that integers save in each layer of a measured placement.

    What was measured is a region's saving, quantized alone. Its layers share it by the size of their
    weights: at one resolution each weight is multiplied equally often. A region whose saving is within the
    noise of the measurement counts as one that is just above it.

    Args:
        program: what the placement was measured for.
        placement: the measurement.
        exclude: patterns of layers that were left out of it.
    """
    prepared = prepare_for_export(program)
    sizes = {
        node.name: weight_of(node).meta["val"].numel() for node in prepared.graph.nodes if is_layer(node)
    }
    ratios = {(found.region, found.level): found.ratio for found in placement.candidates}
    gains: dict[str, float] = {}
    for region, layers in _regions(prepared, excluded(prepared.graph, exclude)).items():
        whole = sum(sizes[layer] for layer in layers)
        for layer in layers:
            if layer in placement.levels:
                saved = 1 - ratios[region, placement.levels[layer].name]
                share = sizes[layer] / whole
                gains[layer] = max(saved, _SMALLEST_GAIN) * placement.float_ms * share
    return gains


def _levels(to: str, region: str, bits: BitWidths) -> tuple[Level, ...]:
    """The levels for which the runtime has kernels of their own."""
    # Matrix kernels give floats from integers: ONNX Runtime's on a grid known before, LiteRT's on one of each
    # token. No other kernel does.
    if _kind(region) == "linear" and to == "onnx":
        return (Level.INPUTS, Level.INTEGER)
    if _kind(region) == "linear" and bits.activations == DYNAMIC_BITS:
        return (Level.DYNAMIC, Level.INTEGER)
    return (Level.INTEGER,)


class _Bench:
    """Artefacts of one program, written and timed against the float one."""

    def __init__(self, program: Program, to: str, bits: BitWidths, folder: Path) -> None:
        self.program, self.format, self.bits, self.folder = program, FORMATS[to], bits, folder
        self.float_ms = 0.0
        self.plain = self._written(program, "float")
        self.number = 0

    def ratio(self, levels: Mapping[str, Level]) -> float:
        """Time of the program with such levels relative to float."""
        self.number += 1
        path = self._written(with_levels(self.program, self.settled(levels), self.bits), str(self.number))
        self.float_ms, taken = medians_in_turns([self.plain, path])
        path.unlink()
        return taken / self.float_ms

    def settled(self, levels: Mapping[str, Level]) -> dict[str, Level]:
        """The levels, with what stands between integers."""
        return with_enclosed(self.program.graph, levels)

    def _written(self, program: Program, name: str) -> Path:
        path = self.folder / name / self.format.file
        path.parent.mkdir()
        self.format.export(program, path, ExportChoices())
        return path


def _fastest(
    bench: _Bench, regions: Mapping[str, list[str]], ratios: Mapping[tuple[str, Level], float]
) -> tuple[Levels, float]:
    """The best of some plans, each measured as a whole, and made better kind by kind.

    A region alone has borders that it does not have beside others in integers. So beside every region at its
    own best level, and every kind of layer at its best whatever the resolution, which is steadier where the
    regions are small, there are two plans without floats: each kind at its best level, and all INTEGER.
    """
    by_region = {
        name: {level: 1 - ratio for (region, level), ratio in ratios.items() if region == name}
        for name in regions
    }
    by_kind = {name: _sums(_kind(name), by_region) for name in regions}
    integers = (Level.INTEGER,) * len(regions)
    tried: dict[Plan, float] = {}

    def measured(plan: Plan) -> float:
        if plan not in tried:
            tried[plan] = bench.ratio(_by_layer(regions, plan))
        return tried[plan]

    plans = [_best(by_region), _best(by_kind), _best(by_kind, least=-math.inf), integers]
    best = min((plan for plan in plans if any(plan)), key=measured)
    for kind, gains in {_kind(name): gains for name, gains in by_kind.items()}.items():
        for level in (Level.FLOAT, *gains):
            changed = tuple(
                level if _kind(name) == kind else old for name, old in zip(regions, best, strict=True)
            )
            if any(changed) and measured(changed) < tried[best] - _SMALLEST_GAIN:
                best = changed
    chosen = _least_rounded(tried, [len(layers) for layers in regions.values()])
    return bench.settled(_by_layer(regions, chosen)), tried[chosen]


def _least_rounded(tried: Mapping[Plan, float], layers: Sequence[int]) -> Plan:
    """Of the plans that are about as fast as the fastest, the one that rounds least.

    Args:
        tried: times by plan, relative to float.
        layers: of each region, how many it has.
    """
    fastest = min(tried.values())
    # Not so slow that nothing is gained, if anything is.
    enough = min(fastest * (1 + _ABOUT), max(fastest, 1 - 2 * _SMALLEST_GAIN))
    fast = [plan for plan, ratio in tried.items() if ratio <= enough]
    # A higher level rounds more of what its layer reads and gives.
    return min(fast, key=lambda plan: (sum(map(operator.mul, plan, layers)), tried[plan]))


def _best(gains: Mapping[str, Mapping[Level, float]], *, least: float = _SMALLEST_GAIN) -> Plan:
    """Every region at the level that gains most, float where none gains enough."""
    found = [max(levels, key=lambda level: levels[level]) for levels in gains.values()]
    return tuple(
        level if levels[level] > least else Level.FLOAT
        for level, levels in zip(found, gains.values(), strict=True)
    )


def _by_layer(regions: Mapping[str, list[str]], plan: Plan) -> dict[str, Level]:
    """The levels of layers, those that stay float left out."""
    return {
        layer: level
        for layers, level in zip(regions.values(), plan, strict=True)
        for layer in layers
        if level != Level.FLOAT
    }


def _sums(kind: str, gains: Mapping[str, Mapping[Level, float]]) -> dict[Level, float]:
    """What a kind of layer gains at each level in all its regions together."""
    alike = [found for region, found in gains.items() if _kind(region) == kind]
    return {level: sum(found[level] for found in alike) for level in alike[0]}


def _kind(region: str) -> str:
    """A region without its resolution."""
    return region.partition(" at ")[0].partition(" on ")[0]


def _regions(program: Program, without: set[str]) -> dict[str, list[str]]:
    """Layers by kind and resolution."""
    regions: dict[str, list[str]] = {}
    for node in program.graph.nodes:
        if is_layer(node) and node.name not in without:
            regions.setdefault(_region(node), []).append(node.name)
    return regions


def _region(node: Node) -> str:
    weight, result = weight_of(node).meta["val"], node.meta["val"]
    size = "x".join(str(side) for side in result.shape[2:]) if weight.dim() > 2 else ""
    if weight.dim() == 2:
        tokens = [side for side in result.shape[1:-1] if isinstance(side, int)]
        return f"linear on {tokens[-1]} tokens" if tokens else "linear on one vector"
    if weight.shape[1] == 1 and weight.shape[0] > 1:
        return f"depthwise convolution at {size}"
    kind = "pointwise" if set(weight.shape[2:]) == {1} else "dense"
    return f"{kind} convolution at {size}"


def with_levels(program: Program, levels: Levels, bits: BitWidths) -> Program:
    """Quantized with made-up ranges: as fast as with those that are learned.

    Args:
        program: a prepared one.
        levels: of its operations, and of others, which do not count.
        bits: of weights and activations.
    """
    levels = {node.name: levels[node.name] for node in program.graph.nodes if node.name in levels}
    program, levels = spell_out_silu(program, levels)
    anything = Observed(-4.0, 4.0, -torch.ones(1), torch.ones(1))
    observed = {name: anything for group in groups(program.graph, levels) for name in group.values}
    return insert_quantizers(program, start(program, levels, observed, bits))
