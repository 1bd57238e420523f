"""What is decided before anything is learned: grids that cover what was seen, and what stays float.

The float program changes on the way, each time exactly: outlier channels are multiplied apart, activations
smoothed, weights equalized. What it comes to is looked at again after each change.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from torch.fx import Graph

from edgevit.errors import EdgevitError
from edgevit.graph.costs import macs_by_node
from edgevit.graph.program import Program
from edgevit.graph.rewrites import prepare_for_export
from edgevit.graph.running import spread
from edgevit.quant import nncf_engine
from edgevit.quant.calibration import Calibration, check_observed, check_weights
from edgevit.quant.folding import fold_factors
from edgevit.quant.insertion import Quantization
from edgevit.quant.levels import Level, Levels, groups, without
from edgevit.quant.observation import Observed, headroom, observe
from edgevit.quant.operators import input_of, is_layer
from edgevit.quant.options import QuantizeOptions
from edgevit.quant.outliers import can_decompose, decompose, outlier_channels, recompose
from edgevit.quant.placing import check_levels, default_placement, excluded, place
from edgevit.quant.precision import bit_widths
from edgevit.quant.presteps import prestep
from edgevit.quant.ranges import start
from edgevit.quant.sensitivity import LayerSensitivity, sensitivities
from edgevit.quant.silu import spell_out_silu
from edgevit.quant.sparing import bargains, outliers

_SENSITIVITY_IMAGES = 64
# KL in nats that a layer does by itself: what multiplying some channels apart is worth.
_WORTH_DECOMPOSING = 3e-4


@dataclass
class Draft:
    """A quantization in the making.

    Attributes:
        program: float, as it is quantized.
        levels: of its operations.
        observed: its values that need a grid.
        quantization: so far.
        gains: as `quantize` takes them.

    The others are those of `QuantizeResult`.
    """

    program: Program
    levels: dict[str, Level]
    observed: dict[str, Observed]
    quantization: Quantization
    gains: Mapping[str, float] | None = None
    sensitivity: tuple[LayerSensitivity, ...] = ()
    widened: tuple[str, ...] = ()
    kept_float: dict[str, str] = field(default_factory=dict)
    smoothed: tuple[str, ...] = ()
    equalized: tuple[str, ...] = ()
    decomposed: dict[str, tuple[int, ...]] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()


def drafted(
    program: Program,
    calibration: Calibration,
    options: QuantizeOptions,
    levels: Levels | None,
    gains: Mapping[str, float] | None,
) -> Draft:
    """Grids that cover what was seen, smoothed and equalized, the worst outliers left float."""
    bits = bit_widths(options.precision)
    remarks = check_weights(program)
    placement = options.placement or default_placement(bits)
    prepared = prepare_for_export(program)
    if levels is None:
        levels = place(prepared.graph, placement, bits, options.exclude)
    else:
        check_levels(prepared, levels, bits, where="levels")
    prepared, levels = spell_out_silu(prepared, levels)
    if gains is not None:
        _check_gains(prepared.graph, levels, gains)
    observed = _observe(prepared, levels, calibration)
    remarks += check_observed(prepared, observed)
    draft = Draft(prepared, dict(levels), observed, _start(prepared, levels, observed, options))
    draft.remarks, draft.gains = remarks, gains
    draft.sensitivity = _sensitivity(draft, calibration)
    if bits.activations is not None:
        _decompose(draft, calibration, options)
        _prestep(draft, calibration, options)
    if options.spare:
        _spare(draft)
    draft.quantization = _start(draft.program, draft.levels, draft.observed, options)
    return draft


def drafted_by_nncf(program: Program, calibration: Calibration, options: QuantizeOptions) -> Draft:
    """What NNCF decides; weights, activations and sensitivities are looked at as for any other engine."""
    remarks = check_weights(program)
    prepared = prepare_for_export(program)
    wanted = place(prepared.graph, "inputs", bit_widths(options.precision), options.exclude)
    remarks += check_observed(prepared, _observe(prepared, wanted, calibration))
    found = nncf_engine.quantize_with_nncf(
        prepared,
        calibration.images,
        ignored=excluded(prepared.graph, options.exclude),
        granularity=options.granularity,
        scheme=options.scheme,
    )
    return Draft(
        found.program,
        dict(found.quantization.levels),
        {},
        found.quantization,
        sensitivity=sensitivities(
            found.program, found.quantization, spread(calibration.images, _SENSITIVITY_IMAGES)
        ),
        kept_float=dict.fromkeys(found.left_float, "NNCF leaves it float"),
        remarks=remarks + found.remarks,
    )


def _check_gains(graph: Graph, levels: Levels, gains: Mapping[str, float]) -> None:
    for node in graph.nodes:
        if node.name not in levels or not is_layer(node):
            continue
        if node.name not in gains:
            raise EdgevitError(f"gains: what {node.name} saves is missing; give a number for every layer")
        if not 0 < gains[node.name] < math.inf:
            raise EdgevitError(
                f"gains: {node.name} saves {gains[node.name]:g} ms; give a number above 0, however small"
            )


def _decompose(draft: Draft, calibration: Calibration, options: QuantizeOptions) -> None:
    """Take outlier channels out of layers that they harm."""
    damage = {item.layer: item.divergence for item in draft.sensitivity}
    channels = {
        node.name: outlier_channels(draft.observed[input_of(node).name])
        for node in draft.program.graph.nodes
        if damage.get(node.name, 0.0) >= _WORTH_DECOMPOSING and can_decompose(node, draft.levels)
    }
    draft.decomposed = {name: found for name, found in channels.items() if found}
    if draft.decomposed:
        draft.program = decompose(draft.program, draft.decomposed)
        _look_again(draft, calibration, options)


def _prestep(draft: Draft, calibration: Calibration, options: QuantizeOptions) -> None:
    """Smooth and equalize, and look again at what changed by it."""
    damage = {item.layer: item.divergence for item in draft.sensitivity}
    found = prestep(
        draft.program,
        draft.levels,
        observed=draft.observed,
        damage=damage,
        images=calibration.images,
        bits=bit_widths(options.precision),
        scheme=options.scheme,
    )
    if found.program is draft.program:
        return
    draft.program, draft.levels = found.program, dict(found.levels)
    draft.smoothed, draft.equalized = found.smoothed, found.equalized
    _look_again(draft, calibration, options, found.products)


def _look_again(
    draft: Draft, calibration: Calibration, options: QuantizeOptions, products: Collection[str] = ()
) -> None:
    """At what a change of the float program left: ranges, grids, sensitivities."""
    draft.observed = _observe(draft.program, draft.levels, calibration)
    wider = headroom(bit_widths(options.precision).activations)
    draft.observed |= {name: draft.observed[name].wider(wider) for name in products}
    draft.quantization = _start(draft.program, draft.levels, draft.observed, options)
    draft.sensitivity = _sensitivity(draft, calibration)


def _spare(draft: Draft) -> None:
    """Leave float what costs more than it saves."""
    worst = outliers(draft.sensitivity)
    for layer in worst:
        _keep_float(draft, layer, "its quantization alone does most of the damage")
    others = [item for item in draft.sensitivity if item.layer not in worst]
    costs = macs_by_node(draft.program) if draft.gains is None else draft.gains
    for layer in bargains(others, costs):
        _keep_float(draft, layer, "its quantization does much damage and saves little time")


def put_back(draft: Draft) -> None:
    """Undo what was changed for integers beside layers that stay float after all."""
    draft.program = fold_factors(draft.program, draft.quantization.levels)
    whole = {name: found for name, found in draft.decomposed.items() if name not in draft.quantization.levels}
    draft.program = recompose(draft.program, whole)
    draft.decomposed = {name: found for name, found in draft.decomposed.items() if name not in whole}


def _sensitivity(draft: Draft, calibration: Calibration) -> tuple[LayerSensitivity, ...]:
    return sensitivities(draft.program, draft.quantization, spread(calibration.images, _SENSITIVITY_IMAGES))


def _observe(program: Program, levels: Levels, calibration: Calibration) -> dict[str, Observed]:
    names = [name for group in groups(program.graph, levels) for name in group.values]
    return observe(program, calibration.images, names)


def _start(
    program: Program, levels: Levels, observed: Mapping[str, Observed], options: QuantizeOptions
) -> Quantization:
    return start(
        program,
        levels,
        observed,
        bit_widths(options.precision),
        granularity=options.granularity,
        scheme=options.scheme,
    )


def _keep_float(draft: Draft, layer: str, reason: str) -> None:
    draft.levels = without(draft.program.graph, draft.levels, layer)
    draft.kept_float[layer] = reason
