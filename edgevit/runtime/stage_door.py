"""One stage served over HTTP alone, for routers that chain servers, such as KServe's InferenceGraph."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

from edgevit.errors import EdgevitError
from edgevit.runtime.doors import DoorOptions, listening
from edgevit.runtime.engines import Engine, open_engine, run_engine
from edgevit.runtime.protocol import RequestError
from edgevit.runtime.stage_protocol import read_tensors, write_tensors
from edgevit.runtime.wire import Array

_log = logging.getLogger("edgevit.stage")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class StageOptions:
    """A stage on its own.

    Attributes:
        artefact: the file.
        name: under which it is asked.
        takes: names of tensors, in the order of the file's inputs.
        gives: likewise of its outputs.
        sends: names of the tensors that are answered, made here or passed on.
        threads: that one run may take.
        most_bytes: of one request.
    """

    artefact: Path
    name: str
    takes: tuple[str, ...]
    gives: tuple[str, ...]
    sends: tuple[str, ...]
    threads: int = 1
    most_bytes: int = 64 * 2**20

    def __post_init__(self) -> None:
        if not self.artefact.is_file():
            raise EdgevitError(f"{self.artefact} does not exist")
        for option, names in (("--takes", self.takes), ("--sends", self.sends)):
            if not names:
                raise EdgevitError(f"{option}: name at least one tensor")


class StageDoor:
    """A stage that answers.

    Args:
        options: what it is.

    Raises:
        EdgevitError: when the runtime is not there, or cannot load the file.
    """

    def __init__(self, options: StageOptions) -> None:
        self._options = options
        format_ = options.artefact.suffix.removeprefix(".")
        self._engine: Engine = open_engine(options.artefact, format_, options.threads)
        self._running = asyncio.Lock()

    def application(self) -> web.Application:
        """The door, as aiohttp runs it."""
        app = web.Application(client_max_size=self._options.most_bytes, middlewares=[_sentences])
        model = f"/v2/models/{self._options.name}"
        ready = [web.get(path, self._ready) for path in ("/v2/health/live", "/v2/health/ready")]
        app.add_routes(
            [*ready, web.get(f"{model}/ready", self._ready), web.post(f"{model}/infer", self._infer)]
        )
        return app

    async def _ready(self, request: web.Request) -> web.Response:  # noqa: ARG002
        return web.json_response({"name": self._options.name, "live": True, "ready": True})

    async def _infer(self, request: web.Request) -> web.Response:
        body = await request.read()
        async with self._running:
            answer = await asyncio.to_thread(self._answer, body)
        return web.Response(body=answer, content_type="application/json")

    def _answer(self, body: bytes) -> bytes:
        options = self._options
        known = read_tensors(body)
        made = run_engine(self._engine, [_taken(known, name) for name in options.takes])
        known |= zip(options.gives, made, strict=True)
        sent = {name: _taken(known, name) for name in options.sends}
        return json.dumps(write_tensors(options.name, sent), allow_nan=False).encode()


def _taken(known: dict[str, Array], name: str) -> Array:
    if name not in known:
        raise RequestError(f"{name} is missing among the tensors: {', '.join(known)[:200]}")
    return known[name]


@web.middleware
async def _sentences(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every refusal is a sentence in JSON, and a line in the log."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        status, reason = error.status, error.reason
    except (EdgevitError, ValueError) as error:
        # A number that JSON does not have is a ValueError.
        status, reason = 400, str(error)
    _log.warning("%s: %d: %s", request.remote, status, reason)
    return web.json_response({"error": reason}, status=status)


def serve_stage(
    options: StageOptions, door: DoorOptions, wait: Callable[[], None], opened: Callable[[], None]
) -> None:
    """Answer with one stage until `wait` returns.

    Args:
        options: the stage.
        door: where.
        wait: returns when it is to end; called in a thread.
        opened: called once clients can come in.

    Raises:
        EdgevitError: when the stage cannot be loaded, or the port cannot be listened at.
    """

    async def main() -> None:
        async with listening(StageDoor(options).application(), door):
            opened()
            await asyncio.to_thread(wait)

    asyncio.run(main())
