"""A plan served to clients until it is stopped."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from edgevit import extras
from edgevit.errors import EdgevitError
from edgevit.runtime.coordinator import Coordinator
from edgevit.runtime.service import Service, ServiceOptions
from edgevit.runtime.transport import is_loopback


@dataclass(frozen=True)
class DoorOptions:
    """Where clients come in.

    Attributes:
        host: address of this machine at which it listens.
        http: port of HTTP.
        grpc: port of gRPC; None for none.
        insecure: whether an address beyond this machine may be used, where everyone may ask.
    """

    host: str
    http: int
    grpc: int | None = None
    insecure: bool = False

    def __post_init__(self) -> None:
        for option, port in (("--http", self.http), ("--grpc", self.grpc)):
            if port is not None and not 0 < port < 65536:
                raise EdgevitError(f"{option} {port}: a port is 1 to 65535")
        if not self.insecure and not is_loopback(self.host):
            raise EdgevitError(
                f"--host {self.host}: whoever is in that network could ask; put a proxy with TLS before "
                "127.0.0.1, or say --insecure"
            )


def serve(
    coordinator: Coordinator,
    options: ServiceOptions,
    door: DoorOptions,
    wait: Callable[[], None],
    opened: Callable[[Service], None],
) -> None:
    """Answer clients until `wait` returns.

    Args:
        coordinator: the plan at work.
        options: what is served, and to how many.
        door: where.
        wait: returns when it is to end; called in a thread.
        opened: called once clients can come in.

    Raises:
        EdgevitError: when the port cannot be listened at.
        MissingDependencyError: when aiohttp or grpcio is not installed.
    """
    extras.require("runtime", "serving")

    async def main() -> None:
        service = Service(coordinator, options)
        async with _http(service, door), _grpc(service, door):
            opened(service)
            await asyncio.to_thread(wait)

    asyncio.run(main())


@contextlib.asynccontextmanager
async def _http(service: Service, door: DoorOptions) -> AsyncIterator[None]:
    from aiohttp import web

    from edgevit.runtime.http import application

    runner = web.AppRunner(application(service), access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, door.host, door.http, shutdown_timeout=5.0).start()
    except OSError as error:
        await runner.cleanup()
        raise EdgevitError(f"--http {door.http}: cannot listen at {door.host}: {error.strerror}") from error
    try:
        yield
    finally:
        await runner.cleanup()


@contextlib.asynccontextmanager
async def _grpc(service: Service, door: DoorOptions) -> AsyncIterator[None]:
    if door.grpc is None:
        yield
        return
    from edgevit.runtime.grpc_door import open_server

    server = await open_server(service, door.host, door.grpc)
    try:
        yield
    finally:
        await server.stop(5.0)
