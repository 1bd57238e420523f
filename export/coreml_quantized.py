"""Quantizers in Core ML packages: what the format lacks, how constants are written, and what was written.

Activations are brought to 8 bits by `quantize` and `dequantize` (iOS 17), weights stand as integers in a
constant expression (`constexpr_affine_dequantize`; from iOS 18 `constexpr_blockwise_shift_scale`, which has
4-bit integers too). Integer biases are not known: a bias is the number that its integer stands for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from edgevit.errors import EdgevitError
from edgevit.export.mil.program import MilProgram, Operation
from edgevit.export.mil.registry import Value
from edgevit.export.quantized import (
    DEQUANTIZE_STORED,
    Parameters,
    Stored,
    check_static,
    grid,
    has_activations,
    has_int16,
    parameters_of,
    stored,
)
from edgevit.graph.program import Program
from edgevit.graph.rewriting import Editor, calls
from edgevit.quant.grids import along

# Passes that give quantizers other scales, other zero points or other places than the Program's.
CHANGING_PASSES = frozenset(
    {
        "common::int_op_canonicalization",
        "common::nullify_redundant_quantization_zero_point",
        "common::dequantize_quantize_pair_elimination",
        "common::distributive_quantized_binary_op_scale_normalization",
    }
)


def check_possible(program: Program, minimum_ios: str) -> None:
    """Whether Core ML can hold a quantized program.

    Raises:
        EdgevitError: saying what it lacks.
    """
    check_static(program, "Core ML")
    if has_int16(program):
        raise EdgevitError(
            f"{program.card.name} has 16-bit activations, which Core ML has not; quantize them to 8 bits or "
            "leave them floats, which are 16 bits wide there anyway"
        )
    if has_activations(program) and int(minimum_ios) < 17:
        raise EdgevitError(
            f"--minimum-ios {minimum_ios}: {program.card.name} has 8-bit activations, which Core ML has from "
            "iOS 17; pass --minimum-ios 17"
        )


def with_float_biases(program: Program) -> Program:
    """The program with every int32 bias as the float32 numbers that its integers stand for."""
    editor, changed = Editor(program), 0
    for node in calls(editor.graph, [DEQUANTIZE_STORED]):
        integers, scales = editor.value(node.args[0]), editor.value(node.args[1])
        if integers is None or scales is None or integers.dtype != torch.int32:
            continue
        axis: Any = node.args[3]
        real = integers.float() * along(scales, axis, integers.dim())
        editor.replace(node, editor.add_tensor(f"{editor.path(node.args[0])}_real", real))  # type: ignore[arg-type]
        changed += 1
    return editor.finish("with_float_biases", changed=changed) if changed else program


def _translate_stored(context: Any, node: Any) -> None:
    """Coremltools' translation of a constant's dequantizer, which fails where it has no zero points."""
    from coremltools.converters.mil.frontend import _utils
    from coremltools.converters.mil.frontend.torch.ops import _get_inputs

    values, scales, _, axis, *_ = _get_inputs(context, node, expected=7)
    result = _utils._construct_constexpr_dequant_op(  # noqa: SLF001
        values.val, None, scales.val, axis=axis.val, name=node.name
    )
    context.add(result, node.name)


def _translate_quantize(context: Any, node: Any) -> None:
    """Coremltools' translation of a quantizer, which drops one behind a constant of integers."""
    from coremltools.converters.mil import Builder
    from coremltools.converters.mil.frontend.torch.ops import _get_inputs

    value, scale, zero_point, *_ = _get_inputs(context, node, expected=6)
    result = Builder.quantize(
        input=value,
        scale=np.float32(scale.val),
        zero_point=np.int8(zero_point.val),
        output_dtype="int8",
        name=node.name,
    )
    context.add(result, node.name)


# By the names under which coremltools looks for them: with and without torch.export.
TRANSLATIONS: dict[str, Callable[[Any, Any], None]] = {
    f"quantized_decomposed{mark}{name}": translation
    for mark in ("::", ".")
    for name, translation in (
        ("dequantize_per_channel", _translate_stored),
        ("quantize_per_tensor", _translate_quantize),
    )
}


def parameters_in(program: MilProgram) -> Parameters:
    """What the quantizers of a package are made of, as the reference evaluator reads them.

    Equal constants are stored once, so each counts once.
    """
    found = Parameters()
    for operation in program.operations:
        if operation.kind in _DATA:
            found.stored[_stored(operation, program.constants)] = 1
        elif operation.kind in ("quantize", "dequantize"):
            place = found.quantized if operation.kind == "quantize" else found.dequantized
            place[_grid(operation, program.constants)] += 1
    return found


def weight_types(program: MilProgram) -> Counter[str]:
    """What the integers of weights are stored as, and how often."""
    keys = (item.inputs[_DATA[item.kind][0]] for item in program.operations if item.kind in _DATA)
    return Counter(program.stored_as[key] for key in keys if isinstance(key, int))


def expected_parameters(program: Program) -> Parameters:
    """What a Program's package stores: all but the integers of biases, equal constants once."""
    found = parameters_of(program)
    kept = Counter(dict.fromkeys((key for key in found.stored if key[0] != "int32"), 1))
    return Parameters(kept, found.quantized, found.dequantized)


# Where the operators that make a weight of integers keep their integers, and their zero points.
_DATA = {
    "constexpr_affine_dequantize": ("quantized_data", "zero_point"),
    "constexpr_blockwise_shift_scale": ("data", "offset"),
}


def _stored(operation: Operation, constants: Mapping[int, Value]) -> Stored:
    data, shift = _DATA[operation.kind]
    values, scales = _array(operation, data, constants), _array(operation, "scale", constants)
    channels = [axis for axis, size in enumerate(scales.shape) if size > 1]
    if operation.kind == "constexpr_affine_dequantize" and scales.ndim:
        channels = [int(_array(operation, "axis", constants))]
    shifts = _array(operation, shift, constants) if shift in operation.inputs else np.zeros(1, np.int8)
    flat = scales.reshape(-1) if channels else scales.reshape(())
    return stored(
        values.astype(np.int8),
        flat,
        axis=channels[0] if channels else None,
        zero_points=np.broadcast_to(shifts.reshape(-1), flat.reshape(-1).shape).reshape(flat.shape),
    )


def _grid(operation: Operation, constants: Mapping[int, Value]) -> tuple[bytes, int, str]:
    zero_point = 0
    if "zero_point" in operation.inputs:
        zero_point = int(_array(operation, "zero_point", constants))
    return grid(_array(operation, "scale", constants), zero_point, "int8")


def _array(operation: Operation, name: str, constants: Mapping[int, Value]) -> npt.NDArray[Any]:
    key = operation.inputs[name]
    value = constants.get(key) if isinstance(key, int) else None
    if not isinstance(value, torch.Tensor):
        raise EdgevitError(f"{operation}: its {name} is no constant")
    array: npt.NDArray[Any] = value.numpy()
    return array
