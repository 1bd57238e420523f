"""``edgevit verify``."""

from __future__ import annotations

import click

from edgevit.cli import options, output


@click.command(short_help="Run an artefact and compare it with its Program.")
@click.argument("artefact")
@click.option("--against", metavar="FILE.pt2", required=True, help="The Program it was made from.")
@click.option("--data", metavar="DIR", help="Run these images instead of noise.")
@click.option("--samples", type=int, default=16, show_default=True, help="Number of inputs.")
@click.option(
    "--tolerance", type=float, help="Largest relative difference that passes.  [default: by precision]"
)
@options.on_bad_image
@click.option(
    "--strict/--no-strict", default=True, show_default=True, help="Exit with 1 when it does not pass."
)
@options.reporting
def command(
    *,
    artefact: str,
    against: str,
    data: str | None,
    samples: int,
    tolerance: float | None,
    on_bad_image: str,
    strict: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Run ARTEFACT in its own runtime and compare every output with the Program's on the same inputs."""
    output.prepare(as_json=as_json, quiet=quiet)
    from edgevit.errors import CheckFailedError
    from edgevit.export.verify import verify

    result = verify(
        artefact,
        against=against,
        data=data,
        samples=samples,
        tolerance=tolerance,
        on_bad_image=on_bad_image,  # type: ignore[arg-type]  # checked where it is used
    )
    if as_json:
        output.print_json({**output.plain(result), "passed": result.passed})
    else:
        click.echo(f"{result.artefact} in {result.runtime}, on {result.n} inputs ({result.inputs})")
        for parity in result.outputs:
            click.echo(output.check_line(parity.explain(), passed=parity.passed))
    if strict and not result.passed:
        raise CheckFailedError(f"{artefact} does not compute what {against} does")
