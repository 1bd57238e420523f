"""Where clients come in over HTTP."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgevit.errors import EdgevitError
from edgevit.runtime.transport import is_loopback

if TYPE_CHECKING:
    from aiohttp import web


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


@contextlib.asynccontextmanager
async def listening(application: web.Application, door: DoorOptions) -> AsyncIterator[None]:
    """An application that clients can reach until the block ends.

    Raises:
        EdgevitError: when the port cannot be listened at.
    """
    from aiohttp import web

    runner = web.AppRunner(application, access_log=None)
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
