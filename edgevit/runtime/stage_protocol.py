"""Tensors between stages that speak HTTP: what one stage answers is what the next one is asked.

A stage is asked as the Open Inference Protocol v2 has it, or with the answer of the stage before, as a router
such as KServe's InferenceGraph hands it on unchanged; or with the answers of several, each under the name of
its step.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Annotated, Any, NoReturn

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgevit.runtime.protocol import DATATYPES, RequestError
from edgevit.runtime.wire import Array

_NAMES = {dtype: name for name, dtype in DATATYPES.items()}

Size = Annotated[int, Field(ge=0, strict=True)]


class _Tensor(BaseModel):
    # What other servers add to a tensor is ignored, as the specification says.
    model_config = ConfigDict(frozen=True, extra="ignore")

    name: Annotated[str, Field(max_length=256)]
    shape: Annotated[tuple[Size, ...], Field(max_length=8)]
    datatype: str
    data: list[Any]


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    inputs: Annotated[tuple[_Tensor, ...], Field(max_length=64)] = ()
    outputs: Annotated[tuple[_Tensor, ...], Field(max_length=64)] = ()


def read_tensors(body: bytes) -> dict[str, Array]:
    """Tensors by name, of a request or of what came before.

    Args:
        body: a request; an answer; or answers of one tensor each, by the names that these get.

    Raises:
        RequestError: when it is none of these, or a tensor is not as it says.
    """
    value = _parsed(body)
    if not ({"inputs", "outputs"} & value.keys()):
        return {name: _only(name, each) for name, each in value.items()}
    message = _message(value)
    return {tensor.name: _array(tensor) for tensor in message.inputs or message.outputs}


def _only(step: str, value: object) -> Array:
    tensors = _message(value).outputs
    if len(tensors) != 1:
        raise RequestError(f"{step[:80]!r}: has {len(tensors)} outputs; one of each step can be told apart")
    return _array(tensors[0])


def _parsed(body: bytes) -> Mapping[str, object]:
    try:
        value = json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise RequestError("the body is not JSON") from error
    if not isinstance(value, dict) or not value:
        raise RequestError("the body has neither inputs nor outputs")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _message(value: object) -> _Message:
    try:
        return _Message.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise RequestError(f"{place or 'the body'}: {first['msg']}") from error


def _array(tensor: _Tensor) -> Array:
    dtype = DATATYPES.get(tensor.datatype)
    if dtype is None:
        raise RequestError(f"{tensor.name}: datatype {tensor.datatype[:20]!r}; known: {', '.join(DATATYPES)}")
    try:
        flat = np.array(tensor.data, dtype=dtype).reshape(-1)
    except (ValueError, TypeError, OverflowError) as error:
        raise RequestError(f"{tensor.name}: its data are no {tensor.datatype} numbers") from error
    if flat.size != math.prod(tensor.shape):
        raise RequestError(f"{tensor.name}: {flat.size} elements are not of shape {list(tensor.shape)}")
    return flat.reshape(tensor.shape)


def write_tensors(name: str, tensors: Mapping[str, Array]) -> dict[str, object]:
    """An answer with tensors; numbers are written so that they are read as they were.

    Args:
        name: of who answers.
        tensors: by name.
    """
    return {
        "model_name": name,
        "outputs": [
            {
                "name": tensor,
                "datatype": _NAMES[value.dtype],
                "shape": list(value.shape),
                "data": value.reshape(-1).tolist(),
            }
            for tensor, value in tensors.items()
        ],
    }
