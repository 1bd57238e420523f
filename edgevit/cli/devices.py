"""``edgevit devices`` and ``edgevit devices show NAME``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from edgevit.cli import options, output

if TYPE_CHECKING:
    from edgevit.profiles import DeviceProfile


@click.group(invoke_without_command=True, short_help="List the devices that are known, and what they run.")
@options.reporting
@click.pass_context
def command(context: click.Context, as_json: bool, quiet: bool) -> None:
    """List the devices that are known; `edgevit devices show NAME` tells what is known about one."""
    if context.invoked_subcommand is not None:
        return
    output.prepare(as_json=as_json, quiet=quiet)
    from edgevit.profiles import devices

    found = devices()
    if as_json:
        output.print_json([_row(device) for device in found])
        return
    for device in found:
        row = _row(device)
        memory = f"{device.memory_mb} MiB" if device.memory_mb else "not published"
        click.echo(f"{device.name:<22} {device.title:<34} {memory:>14}  {', '.join(row['formats'])}")


@command.command("show", short_help="What is known about one device.")
@click.argument("device")
@options.reporting
def show(device: str, as_json: bool, quiet: bool) -> None:
    """Show the profile of DEVICE, a name, an alias or a YAML file, with who states each fact."""
    output.prepare(as_json=as_json, quiet=quiet)
    from edgevit.profiles import load_profile

    profile = load_profile(device)
    if as_json:
        output.print_json(profile)
        return
    click.echo(f"{profile.title} ({profile.name}{''.join(f', {alias}' for alias in profile.aliases)})")
    for name, text in _facts(profile):
        click.echo(f"{name:>13}  {text}")
    for key, source in profile.sources.items():
        click.echo(
            f"{'source':>13}  {key}: {source.title}, {source.basis}{f', {source.url}' if source.url else ''}"
        )


def _row(device: DeviceProfile) -> dict[str, Any]:
    return {
        "name": device.name,
        "title": device.title,
        "aliases": device.aliases,
        "kind": device.kind,
        "memory_mb": device.memory_mb,
        "formats": device.formats,
    }


def _facts(profile: DeviceProfile) -> list[tuple[str, str]]:
    clusters = ", ".join(
        f"{cluster.count} x {cluster.core}{f' at {cluster.max_mhz} MHz' if cluster.max_mhz else ''}"
        for cluster in profile.cpu.clusters
    )
    facts = [("processor", f"{profile.cpu.chip}, {profile.cpu.arch}{f', {clusters}' if clusters else ''}")]
    if profile.memory:
        facts.append(("memory", " or ".join(f"{size} MiB" for size in profile.memory.sizes_mb)))
    for unit in profile.accelerators:
        tops = f", {unit.tops:g} TOPS {unit.tops_counts or ''}".rstrip() if unit.tops else ""
        facts.append((unit.kind, f"{unit.name}{tops}"))
    facts.append(
        ("system", f"{profile.os.distribution or profile.os.name} {profile.os.min_version} or later")
    )
    for format_ in profile.formats:
        facts.extend(
            (
                format_,
                f"{backend.runtime} via {backend.via} on the {backend.unit}: {', '.join(backend.precisions)}",
            )
            for backend in profile.backends(format_)
        )
    for link in profile.links:
        rate = f"{link.mbps} Mbit/s nominal" if link.mbps else ""
        facts.append((link.kind, ", ".join(part for part in (link.standard, rate) if part)))
    for table in profile.measured.runtimes if profile.measured else ():
        threads = "1 thread" if table.threads == 1 else f"{table.threads} threads"
        facts.append(
            ("measured", f"{len(table.operators)} operators in {table.runtime} {table.release}, {threads}")
        )
    return facts
