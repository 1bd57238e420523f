"""What coremltools 9.0 gets wrong with today's numpy and torch, mended before or while a conversion runs.

Two faults stop a conversion, one stops a classifier; the others are worse, being silent: arguments
that torch passes by keyword only (``gelu``'s ``approximate``, ``alpha`` of sums) are not read, and one
pass makes of a product and a sum a batch norm that also divides by the root of 1.00001.

Each shim is for the releases that were seen to need it and, where that can be asked without a
conversion, only when the fault is really there. A test per shim fails once it is no longer needed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, MutableMapping
from typing import Any

import numpy as np
import torch

from edgevit.export.coreml_quantized import CHANGING_PASSES, TRANSLATIONS
from edgevit.extras import version_of

# Releases that were seen to need the shims.
_AFFECTED = ("9.0",)


@contextlib.contextmanager
def converter_shims() -> Iterator[None]:
    """Mend coremltools' torch frontend within the block, where it needs it, and restore it after."""
    from coremltools.converters.mil.backend.mil import load
    from coremltools.converters.mil.frontend.torch import ops
    from coremltools.converters.mil.frontend.torch.torch_op_registry import _TORCH_OPS_REGISTRY

    with contextlib.ExitStack() as patches:
        if needs_cast_shim():
            patches.enter_context(_replaced(vars(ops), "_cast", _cast))
        if needs_alias_shim():
            patches.enter_context(_replaced(_TORCH_OPS_REGISTRY.name_to_func_mapping, "alias", _alias))
        if version_of("coremltools") in _AFFECTED:
            original = vars(load)["_add_classify_op"]
            patches.enter_context(_replaced(vars(load), "_add_classify_op", _typed_classify(original)))
            names = _TORCH_OPS_REGISTRY.name_to_func_mapping
            patches.enter_context(_replaced(names, "gelu", _gelu))
            for name, translation in TRANSLATIONS.items():
                patches.enter_context(_replaced(names, name, translation))
        yield


@contextlib.contextmanager
def _replaced(table: MutableMapping[str, Any], key: str, value: object) -> Iterator[None]:
    before = dict(table)
    table[key] = value
    try:
        yield
    finally:
        del table[key]
        table.update({key: before[key]} if key in before else {})


def needs_cast_shim() -> bool:
    """Whether numpy refuses ``int()`` of a one-element array, on which coremltools' `_cast` relies."""
    if version_of("coremltools") not in _AFFECTED:
        return False
    try:
        int(np.ones(1))
    except TypeError:
        return True
    return False


def needs_alias_shim() -> bool:
    """Whether coremltools has no translation of ``aten.alias``, which decomposing leaves in graphs."""
    from coremltools.converters.mil.frontend.torch.torch_op_registry import _TORCH_OPS_REGISTRY

    return version_of("coremltools") in _AFFECTED and _TORCH_OPS_REGISTRY.get_func("alias") is None


def _cast(context: Any, node: Any, dtype: type, dtype_name: str) -> None:
    """Coremltools' own `_cast`, but for reading a constant's one element with ``item()``."""
    from coremltools.converters.mil import Builder
    from coremltools.converters.mil.frontend.torch.ops import _get_inputs

    (x,) = _get_inputs(context, node, expected=1)
    if any(size != 1 for size in x.shape):
        raise ValueError("input to cast must be either a scalar or a length 1 tensor")
    if x.can_be_folded_to_const():
        result = Builder.const(val=dtype(np.asarray(x.val).item()), name=node.name)
    else:
        scalar = Builder.squeeze(x=x, name=f"{node.name}_item") if x.shape else x
        result = Builder.cast(x=scalar, dtype=dtype_name, name=node.name)
    context.add(result, node.name)


def _alias(context: Any, node: Any) -> None:
    """The same value under another name."""
    from coremltools.converters.mil.frontend.torch.ops import _get_inputs

    context.add(_get_inputs(context, node, expected=1)[0], node.name)


def _gelu(context: Any, node: Any) -> None:
    """As coremltools translates it, but for reading which approximation is asked for."""
    from coremltools.converters.mil import Builder
    from coremltools.converters.mil.frontend.torch.ops import _get_inputs, _get_kwinputs

    approximate = _get_kwinputs(context, node, "approximate", default=["none"])[0]
    mode = {"none": "EXACT", "tanh": "TANH_APPROXIMATION"}[approximate]
    context.add(Builder.gelu(x=_get_inputs(context, node)[0], mode=mode, name=node.name))


def decompositions() -> dict[Any, Callable[..., Any]]:
    """Sums with an ``alpha`` as a product and a sum, for ``ExportedProgram.run_decompositions``."""
    aten = torch.ops.aten
    return {
        aten.add.Tensor: lambda x, y, *, alpha=1: NotImplemented if alpha == 1 else x + y * alpha,
        aten.sub.Tensor: lambda x, y, *, alpha=1: NotImplemented if alpha == 1 else x - y * alpha,
        aten.rsub.Tensor: lambda x, y, *, alpha=1: NotImplemented if alpha == 1 else y - x * alpha,
    }


def exact_passes() -> Any:
    """Coremltools' default passes without those that are not exact, for ``ct.convert``.

    ``fuse_elementwise_to_batchnorm`` makes a scale and a shift per channel a batch norm of mean 0 and
    variance 1, and leaves its epsilon at 1e-5: all that passes is made smaller by 5e-6, which adds up.
    Others replace a quantized graph's scales and zero points (see `CHANGING_PASSES`).
    """
    import coremltools as ct

    passes = ct.PassPipeline.DEFAULT
    if version_of("coremltools") in _AFFECTED:
        passes.remove_passes({"common::fuse_elementwise_to_batchnorm"})
    passes.remove_passes(CHANGING_PASSES)
    return passes


def _typed_classify(original: Callable[[Any, Any], tuple[str, str]]) -> Callable[[Any, Any], tuple[str, str]]:
    """Coremltools' step that makes a classifier, with the output types brought up to date after it.

    It puts label and probabilities before the other outputs but leaves the list of the outputs'
    types as it was: one short, so that describing the last output raises ``IndexError``.
    """

    def add_classify_op(prog: Any, classifier_config: Any) -> tuple[str, str]:
        from coremltools import TensorType

        names = original(prog, classifier_config)
        main = prog.functions["main"]
        main.set_output_types([TensorType() for _ in main.outputs])
        return names

    return add_classify_op
