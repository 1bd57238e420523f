"""A split on disk: its parts, the fusion of their features, and a manifest of what each is and costs."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field, ValidationError

from edgevit.errors import EdgevitError, closest
from edgevit.files import existing_file, sha256_of
from edgevit.graph.program import Array, Program
from edgevit.profiles.documents import Strict, dotted, first_problem
from edgevit.pruning.fusion import Fusion
from edgevit.pruning.heads import FEATURES
from edgevit.pruning.subsets import GroupingName

VERSION = 1
MANIFEST = "manifest.json"
FUSION = "fusion.safetensors"
CONTROL_FILE = "control.pt2"
REPORT = "report.json"
PAGE = "report.html"

Count = Annotated[int, Field(ge=0)]
Percent = Annotated[float, Field(ge=0, le=100)]
Sha256 = Annotated[str, Field(pattern=r"[0-9a-f]{64}")]
# No way out of the folder.
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


class Whole(Strict):
    """The classifier that was split.

    Attributes:
        parameters: trainable values.
        bytes: of weights and buffers.
        macs: multiply-accumulates for one image.
        accuracy: top-1 percent on the images held out.
    """

    parameters: Count
    bytes: Count
    macs: Count
    accuracy: Percent


class StoredFile(Strict):
    """A file of the folder.

    Attributes:
        file: its name.
        sha256: of what it holds.
    """

    file: FileName
    sha256: Sha256


class Part(StoredFile):
    """One sub-model.

    Attributes:
        name: what it is called.
        classes: that it answers for, ascending; its last logit is for all others, where there are any.
        parameters: trainable values.
        bytes: of weights and buffers.
        macs: multiply-accumulates for one image.
        bytes_sent: of its features for one image, float32.
        accuracy: top-1 percent of its own logits on held-out images of its classes.
        accuracy_without: top-1 percent of the fusion when this part is missing; None for the only
            one.
    """

    name: FileName
    classes: Annotated[tuple[Count, ...], Field(min_length=1)]
    parameters: Count
    bytes: Count
    macs: Count
    bytes_sent: Count
    accuracy: Percent
    accuracy_without: Percent | None


class FusionEntry(StoredFile):
    """What makes one answer of the parts' features.

    Attributes:
        parameters: trainable values.
        accuracy: top-1 percent on the images held out, with all parts.
    """

    parameters: Count
    accuracy: Percent


class Control(StoredFile):
    """One model for all classes, in eight bits, that costs no more than the costliest part.

    Attributes:
        bytes: of weights and buffers.
        macs: multiply-accumulates for one image.
        accuracy: top-1 percent on the images held out.
    """

    bytes: Count
    macs: Count
    accuracy: Percent


class Placement(Strict):
    """Parts on devices.

    Attributes:
        device_of: part to device.
        seconds: device to its latency for one image.
        latency: seconds of the slowest device.
    """

    device_of: dict[str, str]
    seconds: dict[str, float]
    latency: float


class Options(Strict):
    """What was asked for, and how the images were used.

    Attributes:
        keep: share of multiply-accumulates and of bytes that each part may have at most.
        grouping: as asked for.
        epochs: of training.
        seed: of everything drawn by chance.
        images: how many parts and fusion learned from.
        held_out: how many accuracies were measured on.
    """

    keep: float
    grouping: Literal["best", "random", "confusion"]
    epochs: Count
    seed: Count
    images: Count
    held_out: Count


class Manifest(Strict):
    """What a split is.

    Attributes:
        version: of this file's format.
        edgevit: version that wrote it.
        model: name of the classifier.
        classes: how many it tells apart.
        labels: their names, where known.
        options: how it was split.
        grouping: "random" or "confusion", which the subsets are.
        compared: accuracy in percent by which the grouping was chosen, of each; None where it was given.
        whole: the classifier.
        parts: the sub-models.
        fusion: what makes one answer of theirs.
        control: what one device alone could run instead.
        placement: the fastest on the devices; None without devices.
        greedy: the published baseline's, largest first; None where it finds none.
    """

    version: Literal[1] = 1
    edgevit: str
    model: str
    classes: Annotated[int, Field(ge=1)]
    labels: tuple[str, ...] | None
    options: Options
    grouping: GroupingName
    compared: dict[GroupingName, Percent] | None
    whole: Whole
    parts: Annotated[tuple[Part, ...], Field(min_length=1)]
    fusion: FusionEntry
    control: Control
    placement: Placement | None
    greedy: Placement | None

    def write(self, path: Path) -> None:
        """Write as JSON."""
        path.write_text(json.dumps(self.model_dump(mode="json"), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """Read a file.

        Raises:
            EdgevitError: when it is missing, no manifest, of another version, or has a key that is unknown.
        """
        try:
            data: Any = json.loads(existing_file(path, "split").read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise EdgevitError(f"{path} is damaged: it is not JSON") from error
        version = data.get("version") if isinstance(data, dict) else None
        if version != VERSION:
            raise EdgevitError(
                f"{path} is a manifest of version {version}; this edgevit reads version {VERSION}"
            )
        try:
            return cls.model_validate_json(json.dumps(data))
        except ValidationError as error:
            loc, problem = first_problem(error)
            raise EdgevitError(f"{path}: {dotted(loc)}: {problem}") from error


@dataclass(frozen=True, eq=False)
class Split:
    """A split that can be run.

    Attributes:
        manifest: what it is.
        parts: its sub-models, in the manifest's order, each with logits and features.
        fusion: what makes one answer of their features.
    """

    manifest: Manifest
    parts: tuple[Program, ...]
    fusion: Fusion

    def predict(self, images: Array, missing: Collection[str] = ()) -> Array:
        """Logits of all classes.

        Args:
            images: (n, channels, height, width) float32, prepared as the card of a part says.
            missing: names of parts that give nothing, as if their devices were lost.

        Returns:
            (n, classes) float32.

        Raises:
            EdgevitError: when a missing part is none of the split's, or all are missing.
        """
        names = [part.name for part in self.manifest.parts]
        for name in missing:
            if name not in names:
                raise EdgevitError(f"missing: {name!r} is no part of the split; {closest(name, names)}")
        features = [
            None if name in missing else torch.from_numpy(program.run(images)[-1])
            for name, program in zip(names, self.parts, strict=True)
        ]
        logits: Array = self.fusion.predict(features).numpy()
        return np.ascontiguousarray(logits)


def read_split(folder: str | Path) -> Split:
    """Read what `split_classes` wrote; its control is a Program like any other and is only checked.

    Raises:
        EdgevitError: when the folder has no manifest, or a file of it is missing, altered or does not fit.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise EdgevitError(f"split: {folder} is no folder; give the one that `edgevit split-classes` wrote")
    manifest = Manifest.read(folder / MANIFEST)
    entries: tuple[StoredFile, ...] = (*manifest.parts, manifest.fusion, manifest.control)
    for entry in entries:
        path = existing_file(folder / entry.file, "split")
        if sha256_of(path) != entry.sha256:
            raise EdgevitError(f"{path} was altered or is damaged: its SHA-256 is not the manifest's")
    parts = tuple(Program.load(folder / part.file) for part in manifest.parts)
    fusion = Fusion.load(folder / manifest.fusion.file)
    _check_fit(folder, manifest, parts, fusion)
    return Split(manifest, parts, fusion)


def _check_fit(folder: Path, manifest: Manifest, parts: Sequence[Program], fusion: Fusion) -> None:
    for entry, program in zip(manifest.parts, parts, strict=True):
        if program.card.outputs[-1:] != (FEATURES,):
            raise EdgevitError(
                f"{folder / entry.file} has no output named {FEATURES}; it is no part of a split"
            )
    widths = tuple(int(program.output_shapes[-1][-1]) for program in parts)
    if fusion.widths != widths or fusion.classes != manifest.classes:
        raise EdgevitError(
            f"{folder / manifest.fusion.file} fuses features of widths {fusion.widths} into {fusion.classes} "
            f"classes, the parts give {widths} for {manifest.classes}"
        )
