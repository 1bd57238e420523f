"""A reference evaluator for saved Core ML programs: `load_package`, then `MilProgram.evaluate`."""

from edgevit.export.mil import (
    ops_activation,
    ops_classify,
    ops_conv,
    ops_index,
    ops_linear,
    ops_math,
    ops_norm,
    ops_quant,
    ops_reduce,
    ops_resize,
    ops_tensor,
)
from edgevit.export.mil.package import Package, read_package
from edgevit.export.mil.program import MilProgram, load_package, load_program

# Importing one of these registers its ops.
OP_FAMILIES = (
    ops_activation,
    ops_classify,
    ops_conv,
    ops_index,
    ops_linear,
    ops_math,
    ops_norm,
    ops_quant,
    ops_reduce,
    ops_resize,
    ops_tensor,
)

__all__ = ["OP_FAMILIES", "MilProgram", "Package", "load_package", "load_program", "read_package"]
