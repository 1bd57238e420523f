"""From a classifier to parts that could be written: groupings of the classes, pruned, trained, compared."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from edgevit import progress
from edgevit.evaluation import percent
from edgevit.graph.program import Program
from edgevit.pruning.augmentation import augmented
from edgevit.pruning.dataset import Images, Indices, Labels, held_out, outputs_of
from edgevit.pruning.fusion import Fusion, FusionOptions, train_fusion
from edgevit.pruning.heads import with_features
from edgevit.pruning.options import SplitOptions
from edgevit.pruning.parts import Budget, Plan, costs_of, prune_part, train_part, unpacked
from edgevit.pruning.steps import generator_of
from edgevit.pruning.subsets import GroupingName, Subsets, balanced, by_confusion, confusion_of
from edgevit.pruning.workers import Job
from edgevit.pruning.workplace import Workplace

# Of the images that are learned from: what groupings are compared on, so that the images held out have no
# part in the choice.
_COMPARED = 0.25


@dataclass(frozen=True, eq=False)
class Task:
    """What a split is made of.

    Attributes:
        program: the whole.
        images: all of them, float16.
        labels: the class of each.
        teacher: (n, classes), the logits of the whole.
        learned: indices of the images to learn from.
        judged: of those to judge by.
        options: how to split.
        place: where parts are kept.
    """

    program: Program
    images: Images
    labels: Labels
    teacher: Tensor
    learned: Indices
    judged: Indices
    options: SplitOptions
    place: Workplace


@dataclass(frozen=True, eq=False)
class Candidate:
    """Parts for one grouping of the classes.

    Attributes:
        grouping: its name.
        plans: what each part was to be.
        packed: each part's file.
        parts: the same as Programs, with features.
        logits: of each part for all images.
        features: likewise.
    """

    grouping: GroupingName
    plans: tuple[Plan, ...]
    packed: tuple[bytes, ...]
    parts: tuple[Program, ...]
    logits: tuple[Tensor, ...]
    features: tuple[Tensor, ...]


def task_of(
    program: Program, images: Images, labels: Labels, options: SplitOptions, place: Workplace
) -> Task:
    """Everything that parts are made of, stored where processes find it."""
    learned, judged = held_out(labels, options.held_out, options.seed)
    place.store(program)
    place.array("labels", lambda: labels)
    place.array("learned_from", lambda: learned)
    stored = place.images(images)

    @functools.cache
    def taught() -> tuple[npt.NDArray[np.float32], ...]:
        outputs = outputs_of(with_features(program), stored, torch_device=options.torch_device)
        return outputs[0].numpy(), outputs[-1].numpy()

    teacher = torch.from_numpy(place.array("teacher", lambda: taught()[0]))
    place.array("features", lambda: taught()[1])
    return Task(program, stored, labels, teacher, learned, judged, options, place)


def groupings_of(task: Task) -> dict[GroupingName, Subsets]:
    """The subsets to try, by name; one only where both are the same."""
    options, learned = task.options, task.learned
    found: dict[GroupingName, Subsets] = {}
    if options.grouping in {"random", "best"}:
        found["random"] = balanced(task.program.num_classes, options.count, seed=options.seed)
    if options.grouping in {"confusion", "best"}:
        confusion = confusion_of(task.teacher[learned].numpy(), task.labels[learned])
        subsets = by_confusion(confusion, options.count, seed=options.seed)
        if subsets not in found.values():
            found["confusion"] = subsets
    return found


def pruned(task: Task, groupings: Mapping[GroupingName, Subsets]) -> list[Candidate]:
    """Parts for the subsets of each grouping, not trained."""
    plans = {grouping: _plans(task, subsets) for grouping, subsets in groupings.items()}
    jobs: dict[str, dict[str, Job]] = {
        grouping: {f"{grouping}-{plan.name}": functools.partial(prune_part, plan) for plan in found}
        for grouping, found in plans.items()
    }
    make(task, {name: job for found in jobs.values() for name, job in found.items()}, "pruned")
    return [_candidate(task, grouping, plans[grouping], list(jobs[grouping])) for grouping in groupings]


def _plans(task: Task, subsets: Subsets) -> tuple[Plan, ...]:
    budgets = _budgets(*costs_of(task.program), task.options)
    return tuple(
        Plan(
            name=f"part-{place + 1}",
            classes=classes,
            budget=budget,
            calibration=task.options.calibration,
            training=task.options.training,
            torch_device=task.options.torch_device,
        )
        for place, (classes, budget) in enumerate(zip(subsets, budgets, strict=True))
    )


def trained(task: Task, before: Candidate) -> Candidate:
    """The parts of a candidate after training."""
    jobs: dict[str, Job] = {}
    for plan, data in zip(before.plans, before.packed, strict=True):
        name = f"{before.grouping}-{plan.name}-trained"
        # The nodes of a cluster do not see this machine's files.
        checkpoint = task.place.checkpoint(name) if task.options.parallel == "local" else None
        jobs[name] = functools.partial(train_part, data, checkpoint, plan)
    make(task, jobs, "trained")
    return _candidate(task, before.grouping, before.plans, list(jobs))


def make(task: Task, jobs: Mapping[str, Job], done: str) -> None:
    """Do the jobs that are not finished yet, and keep what each gives."""
    left = {name: job for name, job in jobs.items() if not task.place.has(name)}
    for finished in task.options.crew.run(left, task.place.read):
        task.place.keep(finished.name, finished.data)
        progress.report(f"{finished.name} {done} by {finished.where}")


def _candidate(
    task: Task, grouping: GroupingName, plans: tuple[Plan, ...], names: Sequence[str]
) -> Candidate:
    """What was kept under some names, and what it gives for all images."""
    packed = tuple(task.place.part(name) for name in names)
    parts = tuple(with_features(unpacked(data)) for data in packed)
    device = task.options.torch_device
    outputs = [outputs_of(part, task.images, torch_device=device) for part in parts]
    return Candidate(
        grouping=grouping,
        plans=plans,
        packed=packed,
        parts=parts,
        logits=tuple(found[0] for found in outputs),
        features=tuple(found[-1] for found in outputs),
    )


def compared(task: Task, candidate: Candidate) -> float:
    """Accuracy in percent of a fusion: some of the images to learn from judge what the others taught."""
    places = held_out(task.labels[task.learned], _COMPARED, task.options.seed)
    learned, judged = (task.learned[place] for place in places)
    fusion = fused(task, candidate, learned)
    return accuracy(fusion.predict([part[judged] for part in candidate.features]), task.labels[judged])


def fused(task: Task, candidate: Candidate, learned: Indices, *, views: int = 0) -> Fusion:
    """A fusion of the parts, trained on some of the images.

    Parts know the images that they were trained with; changed at random as for that training, these are
    closer to what the fusion will see.

    Args:
        task: what is split.
        candidate: the parts.
        learned: indices of the images.
        views: how often each is seen changed, beside once as it is; as much is learned in all.
    """
    seen = [(task.teacher[learned], *(part[learned] for part in candidate.features))]
    seen += [_view(task, candidate, learned, number) for number in range(views)]
    teacher, *features = (torch.cat(column) for column in zip(*seen, strict=True))
    options = FusionOptions(seed=task.options.seed)
    return train_fusion(
        features,
        torch.from_numpy(task.labels[learned]).repeat(len(seen)),
        classes=task.program.num_classes,
        teacher=teacher,
        options=replace(options, epochs=math.ceil(options.epochs / len(seen))),
    )


def _view(task: Task, candidate: Candidate, learned: Indices, number: int) -> tuple[Tensor, ...]:
    """What the whole says of images that are changed at random, and the features of each part."""
    options, images = task.options, task.images[learned]

    def found(program: Program) -> tuple[Tensor, ...]:
        # Every program sees the same changes.
        changed = functools.partial(
            augmented,
            flip=options.flip,
            crop_padding=options.crop_padding,
            generator=generator_of(options.seed, number),
        )
        return outputs_of(program, images, torch_device=options.torch_device, changed=changed)

    return found(task.program)[0], *(found(part)[-1] for part in candidate.parts)


def _budgets(macs: int, size: int, options: SplitOptions) -> Iterator[Budget]:
    """What each part may cost, of what the whole does."""
    share = f"--keep {options.share:.3g}"
    for device in options.devices or (None,) * options.count:
        allowed = {share: int(options.share * macs)}
        room = {share: int(options.share * size)}
        if device is not None:
            room[f"--devices: {device.name}: memory_bytes"] = device.memory_bytes
            if device.macs_limit is not None:
                most, name = device.macs_limit
                allowed[f"--devices: {device.name}: {name}"] = most
        macs_from, bytes_from = (min(found, key=lambda name: found[name]) for found in (allowed, room))
        yield Budget(allowed[macs_from], room[bytes_from], macs_from, bytes_from)


def accuracy(logits: Tensor, labels: Labels) -> float:
    """Top-1 percent."""
    return percent(logits.argmax(dim=1).numpy() == labels)
