"""Docker Compose: a service for each worker and one for the coordinator, on a network of their own.

Format: https://github.com/compose-spec/compose-spec.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml

from edgevit.runtime.emit.options import EmitOptions
from edgevit.runtime.emit.source import PLAN, Source
from edgevit.runtime.messages import COORDINATOR

Document = dict[str, object]

_FILE, _PORT, _HTTP = "compose.yaml", 7447, 8000
# Within a container every address is the container's own; clients come in where the ports are published.
_ANY = "0.0.0.0"  # noqa: S104
_REACHED = "import socket; socket.create_connection(('127.0.0.1', {port}), 2).close()"
_READY = "import urllib.request; urllib.request.urlopen('http://127.0.0.1:{port}/v2/health/ready', timeout=2)"


def write(source: Source, folder: Path, options: EmitOptions) -> list[str]:
    """Write `compose.yaml` and the folder `plan`, which its coordinator reads."""
    model = source.copy_whole(folder / "plan")
    document = {
        "name": project_name(source.name),
        "services": {
            **{device: _worker(device, options) for device in source.devices},
            COORDINATOR: _coordinator(source, model, options),
        },
        "networks": {"devices": {}},
        "volumes": {f"cache-{device}": {} for device in source.devices},
    }
    text = yaml.safe_dump(document, sort_keys=False, width=110)
    (folder / _FILE).write_text(text, encoding="utf-8")
    return [*([] if options.insecure else _keys(source)), f"then: docker compose -f {_FILE} up"]


def project_name(name: str) -> str:
    """A name as Compose wants it for a project: lower case, no dots."""
    return name.lower().replace(".", "-")


def _keys(source: Source) -> list[str]:
    names = ", ".join((*source.devices, COORDINATOR))
    return [
        f"make keys in the folder `keys` beside {_FILE}: `edgevit keys init authority`, then for each of "
        f"{names}: `edgevit keys device NAME --authority authority -o keys/NAME`"
    ]


def _worker(device: str, options: EmitOptions) -> Document:
    words = [
        "worker",
        "--name",
        device,
        "--listen",
        f"{_ANY}:{_PORT}",
        *_secured(options),
        "--cache",
        "/cache",
    ]
    volumes = [*_key_volume(device, options), f"cache-{device}:/cache"]
    return _service(words, volumes, _REACHED.format(port=_PORT), options)


def _coordinator(source: Source, model: Path, options: EmitOptions) -> Document:
    http = options.http or _HTTP
    ports = [http] if options.grpc is None else [http, options.grpc]
    words = ["serve", f"/plan/{PLAN}", "--model", f"/plan/{model}", "--name", source.name]
    words += [
        "--host",
        _ANY,
        "--http",
        str(http),
        *([] if options.grpc is None else ["--grpc", str(options.grpc)]),
    ]
    words += ["--listen", f"{_ANY}:{_PORT}"]
    for device in source.devices:
        words += ["--connect", f"{device}:{_PORT}"]
    # For the door, which is published on this machine alone; between devices keys are used all the same.
    words += ["--insecure", *_key_words(options)]
    volumes = ["./plan:/plan:ro", *_key_volume(COORDINATOR, options)]
    return {
        **_service(words, volumes, _READY.format(port=http), options),
        "ports": [f"127.0.0.1:{port}:{port}" for port in ports],
        "depends_on": {device: {"condition": "service_started"} for device in source.devices},
    }


def _secured(options: EmitOptions) -> list[str]:
    return ["--insecure"] if options.insecure else _key_words(options)


def _key_words(options: EmitOptions) -> list[str]:
    return [] if options.insecure else ["--tls", "/keys"]


def _key_volume(name: str, options: EmitOptions) -> list[str]:
    return [] if options.insecure else [f"./keys/{name}:/keys:ro"]


def _service(words: Sequence[str], volumes: Sequence[str], check: str, options: EmitOptions) -> Document:
    return {
        "image": options.image,
        "command": ["edgevit", *words],
        "restart": "unless-stopped",
        "init": True,
        "networks": ["devices"],
        "volumes": list(volumes),
        "healthcheck": {
            "test": ["CMD", "python", "-c", check],
            "interval": "10s",
            "timeout": "3s",
            "retries": 3,
            "start_period": "60s",
        },
        "read_only": True,
        "tmpfs": ["/tmp"],  # noqa: S108 - of the container
        "cap_drop": ["ALL"],
        # Keys belong to who made them on the host, and nobody else may read them.
        "cap_add": ["DAC_READ_SEARCH"],
        "security_opt": ["no-new-privileges:true"],
    }
