"""Requests to infer, read from JSON with raw tensors behind it, and refused in a sentence."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Annotated, Any, NoReturn

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgevit.runtime.protocol import (
    DATATYPES,
    InferRequest,
    RequestError,
    Served,
    Wanted,
    check_output_name,
)
from edgevit.runtime.wire import Array

Size = Annotated[int, Field(ge=0, strict=True)]


class _Loose(BaseModel):
    # Clients send parameters of other servers, which the specification tells to ignore.
    model_config = ConfigDict(frozen=True, extra="ignore")


class _Parameters(_Loose):
    binary_data_size: Size | None = None
    binary_data: bool | None = None
    binary_data_output: bool = False
    classification: Annotated[int, Field(ge=0, strict=True)] = 0
    timeout: Annotated[int, Field(ge=0, strict=True)] | None = None
    shared_memory_region: str | None = None


class _Input(_Loose):
    name: str
    shape: Annotated[tuple[Size, ...], Field(max_length=8)]
    datatype: str
    data: list[Any] | None = None
    parameters: _Parameters = _Parameters()


class _Output(_Loose):
    name: str
    parameters: _Parameters = _Parameters()


class _Body(_Loose):
    id: Annotated[str, Field(max_length=256)] = ""
    inputs: Annotated[tuple[_Input, ...], Field(min_length=1, max_length=64)]
    outputs: Annotated[tuple[_Output, ...], Field(max_length=64)] = ()
    parameters: _Parameters = _Parameters()


def read_request(served: Served, body: bytes, header_length: int | None) -> InferRequest:
    """A request from its HTTP body.

    Args:
        served: the model that it is for.
        body: JSON, with raw tensors behind it where `header_length` says how long it is.
        header_length: bytes of the JSON; None for all.

    Raises:
        RequestError: naming what is wrong with it.
    """
    if header_length is not None and not 0 <= header_length <= len(body):
        raise RequestError(f"Inference-Header-Content-Length {header_length}: the body has {len(body)} bytes")
    split = len(body) if header_length is None else header_length
    parsed = _parsed(body[:split])
    if len(parsed.inputs) != 1 or parsed.inputs[0].name != served.input.name:
        names = ", ".join(each.name for each in parsed.inputs)
        raise RequestError(f"inputs: {names[:80]}; the model takes one, {served.input.name}")
    images = _tensor(served, parsed.inputs[0], body[split:])
    timeout = parsed.parameters.timeout
    wanted = _wanted(served, parsed)
    return InferRequest(parsed.id, images, wanted, None if not timeout else timeout / 1e6)


def images_of(
    served: Served,
    *,
    name: str,
    datatype: str,
    shape: Sequence[int],
    data: Sequence[float] | None,
    raw: bytes,
) -> Array:
    """What is asked, from a tensor that is described by fields.

    Args:
        served: the model that it is for.
        name: of the tensor.
        datatype: of its elements.
        shape: of it.
        data: its elements; None where they are raw.
        raw: their bytes.

    Raises:
        RequestError: when the model does not take it.
    """
    if name != served.input.name:
        raise RequestError(f"inputs: {name[:80]}; the model takes one, {served.input.name}")
    size = _Parameters(binary_data_size=len(raw) if data is None else None)
    listed = None if data is None else list(data)
    given = _Input.model_construct(
        name=name, datatype=datatype, shape=tuple(shape), data=listed, parameters=size
    )
    return _tensor(served, given, raw)


def _parsed(data: bytes) -> _Body:
    try:
        value = json.loads(data, parse_constant=_refuse_constant)
        return _Body.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise RequestError(f"{where}: {first['msg']}") from error
    except (ValueError, RecursionError) as error:
        raise RequestError("the body is not the JSON of a request to infer") from error


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _tensor(served: Served, given: _Input, raw: bytes) -> Array:
    spec = served.input
    if given.parameters.shared_memory_region is not None:
        raise RequestError(f"{given.name}: shared memory is not served; send the tensor")
    if given.datatype != spec.datatype:
        raise RequestError(f"{given.name}: datatype {given.datatype[:20]}; the model takes {spec.datatype}")
    if given.shape[1:] != spec.shape or not 1 <= (given.shape or (0,))[0] <= served.most:
        raise RequestError(
            f"{given.name}: shape {list(given.shape)}; the model takes {[-1, *spec.shape]}, "
            f"1 to {served.most} at once"
        )
    dtype, count = DATATYPES[spec.datatype], math.prod(given.shape)
    if given.data is not None:
        if given.parameters.binary_data_size is not None or raw:
            raise RequestError(f"{given.name}: has data both in the JSON and behind it")
        return _from_json(given, dtype, count)
    if len(raw) != count * dtype.itemsize or given.parameters.binary_data_size != len(raw):
        raise RequestError(
            f"{given.name}: {count * dtype.itemsize} bytes are needed for its shape; binary_data_size is "
            f"{given.parameters.binary_data_size}, and {len(raw)} follow the JSON"
        )
    return np.frombuffer(raw, dtype).reshape(given.shape)


def _from_json(given: _Input, dtype: np.dtype[Any], count: int) -> Array:
    try:
        values = np.array(given.data, dtype=np.float64 if dtype.kind == "f" else dtype)
    except (ValueError, TypeError, OverflowError) as error:
        raise RequestError(f"{given.name}: its data are not all numbers, in equally long lists") from error
    if values.size != count or (values.ndim > 1 and values.shape != given.shape):
        raise RequestError(f"{given.name}: {values.size} numbers; its shape has {count}")
    with np.errstate(over="ignore"):
        return values.astype(dtype).reshape(given.shape)


def _wanted(served: Served, parsed: _Body) -> tuple[Wanted, ...]:
    default = parsed.parameters.binary_data_output
    if not parsed.outputs:
        return tuple(Wanted(output.name, default) for output in served.outputs)
    for output in parsed.outputs:
        check_output_name(served, output.name)
        if output.parameters.shared_memory_region is not None:
            raise RequestError(f"{output.name}: shared memory is not served; take the tensor")
    return tuple(
        Wanted(
            output.name,
            default if output.parameters.binary_data is None else output.parameters.binary_data,
            output.parameters.classification,
        )
        for output in parsed.outputs
    )
