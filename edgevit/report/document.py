"""The report as data: what ``report.json`` holds and the page shows."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from edgevit.export.placement import Placement
from edgevit.export.verify import OutputParity

REPORT_VERSION = 2


@dataclass(frozen=True)
class ModelSection:
    """The model as it was captured, and its accuracy in torch (percent)."""

    name: str
    source: str
    weights: str
    weights_sha256: str
    licence: str | None
    images: str
    input_shape: tuple[int | str, ...]
    classes: int
    parameters: int
    macs: int
    file: str
    bytes: int
    runtime: str
    top1: float
    top5: float


@dataclass(frozen=True)
class DataSection:
    """The images that accuracy was measured on."""

    folder: str
    n: int
    classes: str
    skipped: tuple[str, ...]


@dataclass(frozen=True)
class StageSection:
    """One stage of the pipeline and how long it took."""

    name: str
    seconds: float


@dataclass(frozen=True)
class PredictedSection:
    """The latency that is expected on the target, from operators that were measured there.

    Attributes:
        runtime: that would run the file, with its version.
        threads: of the runtime.
        p50_ms: the median of its runs.
        low_ms: for nine models of ten it lies above; None where nothing says how far off a prediction is.
        high_ms: and below.
        notes: what else must be known.
    """

    runtime: str
    threads: int
    p50_ms: float
    low_ms: float | None
    high_ms: float | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class ArtefactSection:
    """One exported file: parity with the model, accuracy in its own runtime (percent), latency.

    Attributes:
        agreement: percent of images on which it gives the model's class.
        latency: `edgevit.profiling.LatencyProfile.summary`.
        placement: where its operators can run, on the target where there is one; None where it was not
            looked at.
        predicted: its latency on the target; None where nothing was measured there.
    """

    file: str
    format: str
    precision: str
    bytes: int
    sha256: str
    options: dict[str, Any]
    tools: dict[str, str]
    outputs: tuple[OutputParity, ...]
    passed: bool
    runtime: str
    top1: float
    top5: float
    agreement: float
    latency: dict[str, Any]
    placement: Placement | None = None
    predicted: PredictedSection | None = None


@dataclass(frozen=True)
class MistakeSection:
    """An image that the first artefact got wrong; classes by name, chances from 0 to 1.

    Attributes:
        model_agrees: whether the model in torch gives the same wrong class.
    """

    file: str
    label: str
    predicted: str
    confidence: float
    label_confidence: float
    model_agrees: bool


@dataclass(frozen=True)
class Report:
    """Everything a deployment measured.

    Attributes:
        version: of this document.
        edgevit: version that wrote it.
        created: UTC time, ISO 8601.
        target: title of the device the artefacts are meant for; None for the machine they were made on.
        machine: what the latencies were measured on.
    """

    version: int
    edgevit: str
    created: str
    target: str | None
    machine: dict[str, Any]
    model: ModelSection
    data: DataSection
    pipeline: tuple[StageSection, ...]
    artefacts: tuple[ArtefactSection, ...]
    mistakes: tuple[MistakeSection, ...]

    def to_json(self) -> str:
        """Indented JSON; measured values are finite by construction."""
        return json.dumps(asdict(self), indent=1, allow_nan=False) + "\n"
