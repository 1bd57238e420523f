"""The front door over gRPC: the Open Inference Protocol."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from edgevit.errors import EdgevitError
from edgevit.extras import version_of
from edgevit.runtime.grpc_messages import MESSAGES, SERVICE
from edgevit.runtime.infer_request import images_of
from edgevit.runtime.infer_response import entry_of
from edgevit.runtime.protocol import RequestError, TensorSpec, Wanted, check_output_name
from edgevit.runtime.service import BusyError, Service

_log = logging.getLogger("edgevit.serve")

Answer = Callable[[Any, Any], Awaitable[Any]]


async def open_server(service: Service, host: str, port: int) -> Any:
    """A server that answers at an address.

    Raises:
        EdgevitError: when it cannot be listened at.
    """
    options = [("grpc.max_receive_message_length", service.options.most_bytes), ("grpc.so_reuseport", 0)]
    server = grpc.aio.server(options=options)
    server.add_generic_rpc_handlers((_handlers(_Door(service)),))
    try:
        server.add_insecure_port(f"{host}:{port}")
    except RuntimeError as error:
        raise EdgevitError(f"--grpc {port}: cannot listen at {host}") from error
    await server.start()
    return server


def _handlers(door: _Door) -> Any:
    methods = {
        "ServerLive": door.live,
        "ServerReady": door.ready,
        "ModelReady": door.model_ready,
        "ServerMetadata": door.server,
        "ModelMetadata": door.model,
        "ModelInfer": door.infer,
    }
    return grpc.method_handlers_generic_handler(
        SERVICE,
        {
            name: grpc.unary_unary_rpc_method_handler(
                # Read here and not by the library, which would blame this server for what is no message.
                _sentences(method, MESSAGES[f"{name}Request"].FromString),
                response_serializer=MESSAGES[f"{name}Response"].SerializeToString,
            )
            for name, method in methods.items()
        },
    )


def _sentences(method: Answer, read: Callable[[bytes], Any]) -> Answer:
    """Every refusal is a status with a sentence, and a line in the log."""

    async def answer(request: bytes, context: Any) -> Any:
        try:
            return await method(read(request), context)
        except DecodeError:
            status, reason = grpc.StatusCode.INVALID_ARGUMENT, "the message is not one of the protocol"
        except RequestError as error:
            status, reason = grpc.StatusCode.INVALID_ARGUMENT, str(error)
        except _UnknownModelError as error:
            status, reason = grpc.StatusCode.NOT_FOUND, str(error)
        except BusyError as error:
            status, reason = grpc.StatusCode.RESOURCE_EXHAUSTED, str(error)
        except EdgevitError as error:
            status, reason = grpc.StatusCode.UNAVAILABLE, str(error)
        _log.warning("%s: %s: %s", context.peer(), status.name, reason)
        return await context.abort(status, reason)

    return answer


class _UnknownModelError(EdgevitError):
    """A model that is not served."""


class _Door:
    """Answers for one model."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def live(self, request: Any, context: Any) -> Any:  # noqa: ARG002
        """Whether the service can be reached: it can."""
        return MESSAGES["ServerLiveResponse"](live=True)

    async def ready(self, request: Any, context: Any) -> Any:  # noqa: ARG002
        """Whether a plan is running."""
        return MESSAGES["ServerReadyResponse"](ready=self._service.ready)

    async def model_ready(self, request: Any, context: Any) -> Any:  # noqa: ARG002
        """Whether the model can be asked."""
        self._check(request.name)
        return MESSAGES["ModelReadyResponse"](ready=self._service.ready)

    async def server(self, request: Any, context: Any) -> Any:  # noqa: ARG002
        """Who serves."""
        return MESSAGES["ServerMetadataResponse"](
            name="edgevit", version=version_of("edgevit") or "", extensions=["classification"]
        )

    async def model(self, request: Any, context: Any) -> Any:  # noqa: ARG002
        """What the model takes and gives."""
        self._check(request.name)
        served = self._service.served
        found = served.metadata()
        return MESSAGES["ModelMetadataResponse"](
            name=served.name,
            versions=found["versions"],
            platform=found["platform"],
            inputs=[_described(served.input)],
            outputs=[_described(output) for output in served.outputs],
        )

    async def infer(self, request: Any, context: Any) -> Any:
        """Ask the model."""
        self._check(request.model_name)
        served = self._service.served
        if len(request.inputs) != 1 or len(request.raw_input_contents) > 1:
            raise RequestError(f"inputs: {len(request.inputs)}; the model takes one, {served.input.name}")
        given, raw = request.inputs[0], b"".join(request.raw_input_contents)
        data = None if raw else given.contents.fp32_contents
        images = images_of(
            served, name=given.name, datatype=given.datatype, shape=given.shape, data=data, raw=raw
        )
        wanted = self._wanted(request.outputs)
        outputs, degraded = await self._service.infer(images, context.time_remaining())
        response = MESSAGES["ModelInferResponse"](model_name=served.name, model_version="1", id=request.id)
        if degraded:
            response.parameters.add(key="degraded").value.bool_param = True
        for each in wanted:
            entry, content = entry_of(served, each, outputs[each.name])
            response.outputs.add(name=each.name, datatype=entry["datatype"], shape=entry["shape"])
            response.raw_output_contents.append(content)
        return response

    def _wanted(self, outputs: Any) -> list[Wanted]:
        served = self._service.served
        for output in outputs:
            check_output_name(served, output.name)
        return [Wanted(each.name, binary=True, classes=_classes(each)) for each in outputs] or [
            Wanted(each.name, binary=True) for each in served.outputs
        ]

    def _check(self, name: str) -> None:
        if name != self._service.served.name:
            raise _UnknownModelError(f"no model of that name; known: {self._service.served.name}")


def _classes(output: Any) -> int:
    """How many of the best classes are wanted instead of the tensor."""
    counts = [each.value.int64_param for each in output.parameters if each.key == "classification"]
    return max(0, *counts) if counts else 0


def _described(tensor: TensorSpec) -> Any:
    shape = [-1, *tensor.shape]
    return MESSAGES["TensorMetadata"](name=tensor.name, datatype=tensor.datatype, shape=shape)
