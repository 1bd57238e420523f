"""A plan served to clients until it is stopped."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from edgevit import extras
from edgevit.runtime.coordinator import Coordinator
from edgevit.runtime.doors import DoorOptions, listening
from edgevit.runtime.service import Service, ServiceOptions


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

    from edgevit.runtime.http import application

    async def main() -> None:
        service = Service(coordinator, options)
        async with listening(application(service), door), _grpc(service, door):
            opened(service)
            await asyncio.to_thread(wait)

    asyncio.run(main())


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
