"""Graph rewrites that unblock export: each exact, each ``Program -> Program``, each in its own module.

A rewrite that finds nothing to do returns the very program it was given.
"""

from __future__ import annotations

from collections.abc import Callable

from edgevit.graph.program import Program
from edgevit.graph.rewrites.attention_rank import attention_rank
from edgevit.graph.rewrites.conv3d_to_conv2d import conv3d_to_conv2d
from edgevit.graph.rewrites.drop_broadcast_expand import drop_broadcast_expand
from edgevit.graph.rewrites.drop_no_ops import drop_no_ops
from edgevit.graph.rewrites.fold_batch_norm import fold_batch_norm
from edgevit.graph.rewrites.fold_constants import fold_constants
from edgevit.graph.rewrites.limit_rank import limit_rank
from edgevit.graph.rewrites.make_functional import make_functional
from edgevit.graph.rewrites.matmul_to_linear import matmul_to_linear
from edgevit.graph.rewrites.merge_equal_calls import merge_equal_calls
from edgevit.graph.rewrites.merge_reshapes import merge_reshapes
from edgevit.graph.rewrites.spell_out_channel_shuffle import spell_out_channel_shuffle
from edgevit.graph.rewrites.unfold_to_reshape import unfold_to_reshape

Rewrite = Callable[[Program], Program]

# Memory first, so that the others need not think of it; constants before the batch norms that may read
# them; reshapes before batch norms, which see through them, and last, because the others leave some behind,
# as folding leaves expansions.
EXPORT_REWRITES: tuple[Rewrite, ...] = (
    make_functional,
    drop_no_ops,
    drop_broadcast_expand,
    unfold_to_reshape,
    spell_out_channel_shuffle,
    merge_reshapes,
    fold_constants,
    drop_broadcast_expand,
    matmul_to_linear,
    fold_batch_norm,
    conv3d_to_conv2d,
    attention_rank,
    limit_rank,
    merge_reshapes,
    merge_equal_calls,
)


def prepare_for_export(program: Program) -> Program:
    """Apply every rewrite that helps all targets, in order.

    A program captured with a dynamic batch keeps it. Making it static first (`Program.with_batch`) lets
    constants be folded whose shape depends on the batch.
    """
    for rewrite in EXPORT_REWRITES:
        program = rewrite(program)
    return program


__all__ = [
    "EXPORT_REWRITES",
    "Rewrite",
    "attention_rank",
    "conv3d_to_conv2d",
    "drop_broadcast_expand",
    "drop_no_ops",
    "fold_batch_norm",
    "fold_constants",
    "limit_rank",
    "make_functional",
    "matmul_to_linear",
    "merge_equal_calls",
    "merge_reshapes",
    "prepare_for_export",
    "spell_out_channel_shuffle",
    "unfold_to_reshape",
]
