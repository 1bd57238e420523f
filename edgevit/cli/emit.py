"""``edgevit plan emit``."""

from __future__ import annotations

from pathlib import Path

import click

from edgevit.cli import options, output


@click.command(short_help="A plan as files for KServe, Triton, Docker Compose or systemd.")
@click.argument("plan")
@click.option(
    "--for", "target", required=True, metavar="kserve|triton|compose|systemd", help="Who is to run it."
)
@options.output_folder
@click.option("--model", metavar="FILE", help="What was planned, where it is not as the plan says.")
@click.option("--name", help="Of the service.  [default: as the model is called]")
@click.option("--image", help="Container image that has edgevit[runtime,onnx] (kserve, compose).")
@click.option(
    "--storage", metavar="URI", help="Where the folder `models` will be: pvc://.., s3://.. (kserve)."
)
@click.option(
    "--address", multiple=True, metavar="NAME=HOST:PORT", help="Of a device, and of coordinator (systemd)."
)
@click.option(
    "--program", metavar="PATH", help="The command on devices (systemd).  [default: /opt/edgevit/bin/edgevit]"
)
@click.option("--http", type=int, metavar="PORT", help="Of clients (compose, systemd).  [default: 8000]")
@click.option("--grpc", type=int, metavar="PORT", help="Likewise over gRPC.  [default: not served]")
@click.option("--insecure", is_flag=True, help="Let devices talk without keys (compose, systemd).")
@options.force
@options.reporting
def command(
    *,
    plan: str,
    target: str,
    output_dir: str,
    model: str | None,
    name: str | None,
    image: str | None,
    storage: str | None,
    address: tuple[str, ...],
    program: str | None,
    http: int | None,
    grpc: int | None,
    insecure: bool,
    force: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Write PLAN, a file that `edgevit plan` wrote, and its stages as files for another runner."""
    output.prepare(as_json=as_json, quiet=quiet)
    from edgevit.runtime.emit import EmitOptions, emit

    said = EmitOptions(
        model=None if model is None else Path(model),
        name=name,
        image=image,
        storage=storage,
        addresses=dict(map(_address, address)),
        program=program,
        http=http,
        grpc=grpc,
        insecure=insecure,
        force=force,
    )
    notes = emit(plan, target, output_dir, said)  # type: ignore[arg-type]
    files = sorted(
        str(path.relative_to(output_dir)) for path in Path(output_dir).rglob("*") if path.is_file()
    )
    if as_json:
        output.print_json({"output": output_dir, "files": files, "notes": notes})
        return
    click.echo(f"{output.TICK} {output_dir}: {len(files)} files for {target}")
    for note in notes:
        click.echo(note)


def _address(text: str) -> tuple[str, str]:
    name, equals, address = text.partition("=")
    if not equals or not name or not address:
        raise click.UsageError(f"--address {text}: write NAME=HOST:PORT, such as board-1=192.168.1.11:7447")
    return name, address
