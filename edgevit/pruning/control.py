"""What a split has to be better than: one small model in eight bits, on one device and at no higher cost.

A network of devices pays only where it does what one of them cannot do alone. Published results (ED-ViT,
arXiv 2410.11650) compare a split with the whole; this compares it with what else a single device could run.
"""

from __future__ import annotations

import functools

from edgevit.graph.program import Program
from edgevit.pruning.candidates import Candidate, Task, make
from edgevit.pruning.heads import with_classes
from edgevit.pruning.parts import (
    FLOAT_BYTES,
    Budget,
    Material,
    Plan,
    calibration_images,
    costs_of,
    packed,
    prune_part,
    train_part,
    unpacked,
    without_durations,
)
from edgevit.pruning.workers import Job
from edgevit.quant.quantizing import quantize

CONTROL = "control"
_PRECISION = "w8a8"


def control_of(task: Task, chosen: Candidate) -> Program:
    """The whole with all its classes, cut to the costs of the costliest part, trained as long, in eight bits.

    Its multiply-accumulates are at most those of the part with the most, but for the rows that its classifier
    has more. Its weights may be as many as fit, in eight bits, into the bytes of the largest part.
    """
    plan = _plan(task, chosen)
    data = _made(task, "pruned", functools.partial(prune_part, plan))
    if task.options.epochs:
        # The nodes of a cluster do not see this machine's files.
        checkpoint = task.place.checkpoint(CONTROL) if task.options.parallel == "local" else None
        data = _made(task, "trained", functools.partial(train_part, data, checkpoint, plan))
    return unpacked(_made(task, "quantized", functools.partial(_quantized, data, plan)))


def _plan(task: Task, chosen: Candidate) -> Plan:
    costs = [costs_of(part) for part in chosen.parts]
    whole_macs, whole_bytes = costs_of(task.program)
    # Of a classifier that tells all classes apart, whatever the others of its model.
    rows = max(whole_macs - costs_of(with_classes(task.program, plan.classes))[0] for plan in chosen.plans)
    return Plan(
        name=CONTROL,
        classes=tuple(range(task.program.num_classes)),
        budget=Budget(
            macs=max(macs for macs, _ in costs) + rows,
            bytes=min(FLOAT_BYTES * max(size for _, size in costs), whole_bytes),
            macs_from="control, of the costliest part",
            bytes_from="control, of the largest part",
        ),
        calibration=task.options.calibration,
        training=task.options.training,
        torch_device=task.options.torch_device,
    )


def _made(task: Task, done: str, job: Job) -> bytes:
    """What a job gives; kept, so that an interrupted split does not do it again."""
    name = f"{CONTROL}-{done}"
    make(task, {name: job}, done)
    return task.place.part(name)


def _quantized(data: bytes, plan: Plan, material: Material) -> bytes:
    """A job: the program in eight bits."""
    found = quantize(
        unpacked(data),
        calibration_images(plan, material),
        precision=_PRECISION,
        seed=plan.seed,
        torch_device=plan.torch_device,
    )
    return packed(without_durations(found.program), plan.name)
