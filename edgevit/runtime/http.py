"""The front door over HTTP: the Open Inference Protocol, and images as they are."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
from collections.abc import Awaitable, Callable, Mapping

import numpy as np
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from edgevit.errors import EdgevitError
from edgevit.extras import version_of
from edgevit.images import BadImageError, decode_bytes, prepare
from edgevit.runtime.infer_request import read_request
from edgevit.runtime.infer_response import classes_of, write_response
from edgevit.runtime.protocol import RequestError
from edgevit.runtime.service import BusyError, Service
from edgevit.runtime.wire import Array

_log = logging.getLogger("edgevit.serve")

_HEADER_LENGTH = "Inference-Header-Content-Length"
_IMAGES = ("image/jpeg", "image/png", "image/webp", "image/bmp")
_EXTENSIONS = ["binary_tensor_data", "classification"]
# A small file can be an image that fills the memory.
_MOST_PIXELS = 64 * 2**20

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def application(service: Service) -> web.Application:
    """The door, as aiohttp runs it."""
    logging.getLogger("aiohttp.server").addFilter(_in_one_line)
    # OpenCV reads it when it is loaded, which may have been before: then its own limit holds.
    os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(_MOST_PIXELS))
    app = web.Application(client_max_size=service.options.most_bytes, middlewares=[_sentences])
    door = _Door(service)
    app.add_routes([web.get("/v2", door.server), web.get("/v2/health/live", door.live)])
    app.add_routes([web.get("/metrics", door.metrics)])
    app.add_routes([web.get("/v2/health/ready", door.ready)])
    for version in ("", "/versions/1"):
        model = "/v2/models/{model}" + version
        app.add_routes(
            [
                web.get(model, door.model),
                web.get(f"{model}/ready", door.model_ready),
                web.post(f"{model}/infer", door.infer),
            ]
        )
    return app


@web.middleware
async def _sentences(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every refusal is a sentence in JSON, and a line in the log."""
    try:
        return await handler(request)
    except web.HTTPRequestEntityTooLarge:
        most = request.app._client_max_size  # noqa: SLF001 - aiohttp has no other name for it
        status, reason = 413, f"the request is larger than {most} bytes"
    except web.HTTPException as error:
        status, reason = error.status, f"{request.method} {request.path[:200]}: {error.reason}"
    except (RequestError, BadImageError) as error:
        status, reason = 400, str(error)
    except BusyError as error:
        status, reason = 429, str(error)
    except EdgevitError as error:
        status, reason = 503, str(error)
    _log.warning("%s: %d: %s", request.remote, status, _one_line(reason))
    headers = {"Retry-After": "1"} if status == 429 else None
    return web.json_response({"error": _one_line(reason)}, status=status, headers=headers)


def _in_one_line(record: logging.LogRecord) -> bool:
    """Bad HTTP, and who left half-way, are clients' doing: a line, not where in aiohttp it was noticed."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, HttpProcessingError | ConnectionError):
        record.msg, record.args = "%s: %s", (record.getMessage(), _one_line(str(error))[:200])
        record.exc_info = None
    return True


def _one_line(text: str) -> str:
    return re.sub(r"[\x00-\x1f\x7f]+", " ", text)


class _Door:
    """Answers for one model."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def server(self, request: web.Request) -> web.Response:  # noqa: ARG002
        """Who serves."""
        return web.json_response(
            {"name": "edgevit", "version": version_of("edgevit") or "", "extensions": _EXTENSIONS}
        )

    async def live(self, request: web.Request) -> web.Response:  # noqa: ARG002
        """Whether the service can be reached: it can."""
        return web.json_response({"live": True})

    async def metrics(self, request: web.Request) -> web.Response:  # noqa: ARG002
        """Counts for Prometheus."""
        text = await asyncio.to_thread(self._service.metrics)
        return web.Response(text=text, content_type="text/plain", charset="utf-8")

    async def ready(self, request: web.Request) -> web.Response:  # noqa: ARG002
        """Whether a plan is running."""
        return self._readiness({"ready": self._service.ready})

    async def model(self, request: web.Request) -> web.Response:
        """What the model takes and gives."""
        self._check(request)
        return web.json_response(self._service.served.metadata())

    async def model_ready(self, request: web.Request) -> web.Response:
        """Whether the model can be asked."""
        self._check(request)
        return self._readiness({"name": self._service.served.name, "ready": self._service.ready})

    def _readiness(self, value: Mapping[str, object]) -> web.Response:
        return web.json_response(value, status=200 if self._service.ready else 503)

    async def infer(self, request: web.Request) -> web.Response:
        """Ask the model."""
        self._check(request)
        body = await request.read()
        if request.content_type in _IMAGES:
            return await self._classify(body, request.content_type)
        asked = read_request(self._service.served, body, _header_length(request))
        outputs, degraded = await self._service.infer(asked.images, asked.timeout)
        parameters = {"degraded": True} if degraded else {}
        data, length = write_response(self._service.served, asked, outputs, parameters)
        if length is None:
            return web.Response(body=data, content_type="application/json")
        headers = {_HEADER_LENGTH: str(length)}
        return web.Response(body=data, content_type="application/octet-stream", headers=headers)

    async def _classify(self, body: bytes, kind: str) -> web.Response:
        """The best classes of an image file."""
        prepared = await asyncio.to_thread(self._prepared, body, kind)
        outputs, degraded = await self._service.infer(prepared, None)
        logits = next(iter(outputs.values()))[0].astype(np.float64)
        exponentials = np.exp(logits - logits.max())
        best = classes_of(exponentials / exponentials.sum(), self._service.served.labels, 5)
        classes = [{"class": place, "label": label, "probability": score} for score, place, label in best]
        return web.json_response(
            {"model_name": self._service.served.name, "classes": classes, "degraded": degraded}
        )

    def _prepared(self, body: bytes, kind: str) -> Array:
        preprocessing = self._service.card.preprocessing
        data = np.frombuffer(body, np.uint8)
        image = decode_bytes(data, f"the {kind}", channels=preprocessing.channels)
        return prepare(image, preprocessing)[None]

    def _check(self, request: web.Request) -> None:
        name = request.match_info["model"]
        if name != self._service.served.name:
            raise web.HTTPNotFound(reason=f"no model of that name; known: {self._service.served.name}")


def _header_length(request: web.Request) -> int | None:
    text = request.headers.get(_HEADER_LENGTH)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 12):
        raise RequestError(f"{_HEADER_LENGTH}: {json.dumps(text[:40])} is no number of bytes")
    return int(text)
