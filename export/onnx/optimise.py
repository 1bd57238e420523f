"""ONNX Runtime's fusions for transformers, which it does not do by itself when it loads a file."""

from __future__ import annotations

import contextlib
import io
import logging
from collections import Counter
from collections.abc import Iterator
from typing import Any

# The domain of ONNX Runtime's own operators.
DOMAIN = "com.microsoft"


def fuse(model: Any) -> tuple[Any, dict[str, int]]:
    """Fuse what ONNX Runtime's transformer optimizer finds, such as an addition with its layer norm.

    Args:
        model: an ``onnx_ir.Model`` in opset 20; it may share weights with the result.

    Returns:
        The fused model, and how often each operator of ONNX Runtime's own stands in it.
    """
    import onnx_ir as ir
    from onnxruntime.transformers.optimizer import optimize_model

    with _silent():
        # Level 0: the fusions of this optimizer alone; the runtime does its own whenever it loads a file.
        proto = optimize_model(ir.to_proto(model), model_type="vit", opt_level=0).model
    fused = ir.from_proto(proto)
    fused.producer_name, fused.producer_version = model.producer_name, model.producer_version
    fused.metadata_props.update(model.metadata_props)
    # The optimizer leaves it to the runtime to know where its operators come from.
    fused.opset_imports[DOMAIN] = 1
    counts = Counter(node.op_type for node in fused.graph if node.domain == DOMAIN)
    return fused, dict(sorted(counts.items()))


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """It logs and prints what it did not find, and that the file is not from the producer it expects."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(disabled)
