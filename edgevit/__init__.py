"""edgevit: take a Vision Transformer from PyTorch to the edge.

Each function is also a command of the same name. Importing the package imports no heavy library; each
function does so when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgevit.compression import compress
    from edgevit.deployment import deploy
    from edgevit.diagnosis import doctor
    from edgevit.errors import EdgevitError
    from edgevit.export.evaluate import evaluate
    from edgevit.export.verify import verify
    from edgevit.graph.capture import capture
    from edgevit.graph.cutting import find_cuts
    from edgevit.graph.inspection import inspect
    from edgevit.graph.program import Program
    from edgevit.graph.stages import run_stages, stages
    from edgevit.planning.plans import PlanOptions, plan
    from edgevit.planning.simulation import simulate
    from edgevit.prediction import predict
    from edgevit.profiles import devices
    from edgevit.profiling import profile
    from edgevit.pruning.classwise import split_classes
    from edgevit.pruning.prune import prune
    from edgevit.pruning.split import read_split
    from edgevit.quant.quantizing import quantize
    from edgevit.runtime.emit import EmitOptions, emit
    from edgevit.runtime.running import RunOptions, run
    from edgevit.submodels.elastic import elastic
    from edgevit.submodels.extraction import extract
    from edgevit.submodels.training import train_nested

# Public name -> the module that has it. `edgevit.export.export` stays in its package, as torch's does.
_HOMES = {
    "EmitOptions": "edgevit.runtime.emit",
    "EdgevitError": "edgevit.errors",
    "PlanOptions": "edgevit.planning.plans",
    "Program": "edgevit.graph.program",
    "capture": "edgevit.graph.capture",
    "compress": "edgevit.compression",
    "deploy": "edgevit.deployment",
    "devices": "edgevit.profiles",
    "doctor": "edgevit.diagnosis",
    "elastic": "edgevit.submodels.elastic",
    "emit": "edgevit.runtime.emit",
    "evaluate": "edgevit.export.evaluate",
    "extract": "edgevit.submodels.extraction",
    "find_cuts": "edgevit.graph.cutting",
    "inspect": "edgevit.graph.inspection",
    "plan": "edgevit.planning.plans",
    "predict": "edgevit.prediction",
    "profile": "edgevit.profiling",
    "prune": "edgevit.pruning.prune",
    "quantize": "edgevit.quant.quantizing",
    "read_split": "edgevit.pruning.split",
    "RunOptions": "edgevit.runtime.running",
    "run": "edgevit.runtime.running",
    "run_stages": "edgevit.graph.stages",
    "simulate": "edgevit.planning.simulation",
    "split_classes": "edgevit.pruning.classwise",
    "stages": "edgevit.graph.stages",
    "train_nested": "edgevit.submodels.training",
    "verify": "edgevit.export.verify",
}

__all__ = [
    "EdgevitError",
    "EmitOptions",
    "PlanOptions",
    "Program",
    "RunOptions",
    "capture",
    "compress",
    "deploy",
    "devices",
    "doctor",
    "elastic",
    "emit",
    "evaluate",
    "extract",
    "find_cuts",
    "inspect",
    "plan",
    "predict",
    "profile",
    "prune",
    "quantize",
    "read_split",
    "run",
    "run_stages",
    "simulate",
    "split_classes",
    "stages",
    "train_nested",
    "verify",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'edgevit' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
