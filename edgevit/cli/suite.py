"""``edgevit profile --suite``: a machine measured, and written as a device profile."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgevit.cli import output

if TYPE_CHECKING:
    from edgevit.profiling import Remote


def measure_machine(
    *,
    file: str | None,
    remote: Remote,
    force: bool,
    as_json: bool,
    formats: str | None,
    models: str | None,
    **choices: Any,
) -> None:
    """Measure, write what was measured, and say what that is.

    Raises:
        UsageError: without a file to write.
        InterruptedProfileError: when it is interrupted; what there was by then is written.
        PartialSuiteError: likewise when the device is lost.
    """
    from edgevit.files import check_output, staged_file
    from edgevit.prediction.document import write_profile
    from edgevit.prediction.suite import INTERRUPTED, PartialSuiteError, measure
    from edgevit.profiling.latency import InterruptedProfileError

    if file is None:
        raise click.UsageError("--suite: name the device profile to write with -o FILE.yaml")
    path = Path(file)
    if path.suffix not in {".yaml", ".yml"}:
        raise click.UsageError(f"-o {file}: a device profile ends in .yaml")
    check_output(path, force=force)
    try:
        suite = measure(
            formats=None if formats is None else formats.split(","),
            models=None if models is None else models.split(","),
            remote=remote,
            **choices,
        )
        with staged_file(path) as staged:
            write_profile(suite, staged, name=path.stem)
    except KeyboardInterrupt:
        raise InterruptedProfileError(f"{path}: interrupted; nothing was written") from None
    _print(path, as_json=as_json)
    if suite.partial is not None:
        error = InterruptedProfileError if suite.partial == INTERRUPTED else PartialSuiteError
        raise error(f"{path}: {suite.partial}; the profile is partial, and says so")


def _print(path: Path, *, as_json: bool) -> None:
    from edgevit.profiles import load_profile

    profile = load_profile(path)
    measured = profile.measured
    if as_json or measured is None:
        output.print_json(profile)
        return
    memory = (measured.memory_bytes_per_second or 0) / 1e9
    click.echo(f"{path}: {profile.title}, {profile.cores} cores")
    click.echo(f"  memory {memory:.1f} GB/s, read and written by one core")
    for link in measured.links:
        click.echo(f"  to {link.to} {link.bytes_per_second / 1e6:.1f} MB/s")
    for table in measured.runtimes:
        kinds = len({row.kind for row in table.operators})
        threads = "1 thread" if table.threads == 1 else f"{table.threads} threads"
        click.echo(
            f"  {table.runtime} {table.release}, {threads}: {len(table.operators)} operators of {kinds} kinds"
        )
        for model in table.models:
            error = 100 * (model.predicted_us / model.us - 1)
            click.echo(
                f"    {model.name:<22} {model.precision}  {model.us / 1e3:>8.2f} ms   "
                f"from the others {model.predicted_us / 1e3:>8.2f} ms  {error:>+6.1f} %"
            )
    click.echo(f"next: edgevit predict MODEL --device {path}")
