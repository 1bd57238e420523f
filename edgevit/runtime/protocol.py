"""The Open Inference Protocol, version 2: what clients see of a model, and what they ask of it.

Specification: https://github.com/kserve/open-inference-protocol, with Triton's extensions for binary tensors
and for classification.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from edgevit.errors import EdgevitError, closest
from edgevit.runtime.wire import Array

#: Names of the types that a model takes and gives.
DATATYPES: dict[str, np.dtype[Any]] = {
    "FP32": np.dtype("<f4"),
    "FP16": np.dtype("<f2"),
    "FP64": np.dtype("<f8"),
    "INT8": np.dtype("i1"),
    "UINT8": np.dtype("u1"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
}

PLATFORM = "edgevit_plan"


class RequestError(EdgevitError):
    """A request that the protocol does not allow, or that the model cannot take."""


@dataclass(frozen=True)
class TensorSpec:
    """A tensor that a model takes or gives.

    Attributes:
        name: of it.
        datatype: a key of `DATATYPES`.
        shape: behind the batch.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Served:
    """What clients see of a model.

    Attributes:
        name: of it.
        input: what it takes.
        outputs: what it gives.
        labels: names of the classes of the first output, where known.
        most: images in one request.
    """

    name: str
    input: TensorSpec
    outputs: tuple[TensorSpec, ...]
    labels: tuple[str, ...] | None = None
    most: int = 64

    def metadata(self) -> dict[str, object]:
        """As the protocol describes a model."""
        return {
            "name": self.name,
            "versions": ["1"],
            "platform": PLATFORM,
            "inputs": [_described(self.input)],
            "outputs": [_described(output) for output in self.outputs],
        }


def _described(tensor: TensorSpec) -> dict[str, object]:
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": [-1, *tensor.shape]}


@dataclass(frozen=True)
class Wanted:
    """An output that is asked for.

    Attributes:
        name: of it.
        binary: whether as raw bytes behind the JSON.
        classes: how many of the best classes instead of the tensor; 0 for the tensor.
    """

    name: str
    binary: bool
    classes: int = 0


@dataclass(frozen=True)
class InferRequest:
    """A request to infer.

    Attributes:
        id: that the answer repeats.
        images: (n, ..) as the model takes them.
        wanted: outputs, in the order asked for.
        timeout: seconds that it may take; None where nothing is said.
    """

    id: str
    images: Array
    wanted: tuple[Wanted, ...]
    timeout: float | None


def check_output_name(served: Served, name: str) -> None:
    """Refuse an output that the model does not give.

    Raises:
        RequestError: naming it.
    """
    known = [output.name for output in served.outputs]
    if name not in known:
        raise RequestError(f"outputs: {name[:80]!r}; {closest(name, known)}")
