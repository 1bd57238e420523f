"""``edgevit compress``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from edgevit.cli import options, output, submodels
from edgevit.cli.remote import remote

if TYPE_CHECKING:
    from edgevit.compression import CompressResult
    from edgevit.recipe import QuantizeRecipe

# Layers that are named one by one.
_SHOWN = 5


@click.command(short_help="Make a Program smaller and faster, and measure what that costs.")
@click.argument("program")
@click.option("--quantize", "precision", metavar="BITS", help="w8a8, w8a16, w6a6, w4a8, w4a4 or w8.")
@click.option("--recipe", metavar="FILE", help="Repeat what a recipe says.")
@click.option("--submodel", metavar="NAME", help="Of a nested Program: the name of a slice, or widths: 0.5.")
@click.option("--slices", metavar="FILE", help="That has the name.  [default: beside PROGRAM]")
@click.option("--flops-budget", metavar="N", help="Of a nested Program, the best submodel: 0.4G, 300M.")
@click.option("--size-budget", metavar="N", help="Likewise, of its weights as float32: 3MB, 800kB.")
@click.option("--latency-budget", metavar="TIME", help="Likewise, of p50 on a device, one thread: 12ms.")
@click.option(
    "--device",
    metavar="WHERE",
    help="Of a latency: ssh://user@host, adb://SERIAL, or a measured device profile.  [default: local]",
)
@remote
@click.option("--calib", "--data", metavar="DIR", help="Images to calibrate with, labelled or not.")
@click.option("-o", "--output", "output_file", metavar="FILE", required=True, help="The .pt2 file to write.")
@click.option("--engine", metavar="NAME", help="edgevit or nncf.  [default: edgevit]")
@click.option("--method", metavar="NAME", help="minmax, hessian or reconstruct.  [default: reconstruct]")
@click.option("--images", type=click.IntRange(min=1), help="Of the folder, drawn by chance.  [default: 256]")
@click.option("--granularity", metavar="NAME", help="Of weight scales: auto, channel or tensor.")
@click.option("--scheme", metavar="NAME", help="Of activation grids: auto, sym or asym.")
@click.option(
    "--placement",
    metavar="NAME",
    help="inputs, layers, full, dynamic (TFLite) or measured.  [default: measured for 8 bits]",
)
@click.option("--to", metavar="FORMAT", help="Whose runtime decides where integers pay.  [default: onnx]")
@click.option("--exclude", multiple=True, metavar="PATTERN", help="Layers that stay float; may be repeated.")
@click.option("--max-drop", type=float, metavar="POINTS", help="Of accuracy on the images, at most.")
@click.option(
    "--fallback",
    metavar="NAME",
    help="Of layers while more is lost: int16 or float.  [default: int16 in full, else float]",
)
@click.option(
    "--spare/--no-spare",
    default=None,
    help="Leave layers float that do much damage and save little.  [default: spare]",
)
@click.option("--iterations", type=click.IntRange(min=1), help="Of reconstruction, a block.  [default: 200]")
@click.option("--seed", type=click.IntRange(min=0), help="Of everything drawn by chance.  [default: 0]")
@click.option(
    "--torch-device",
    type=click.Choice(["cpu", "cuda"]),
    default="cpu",
    show_default=True,
    help="Calibrate there.",
)
@options.on_bad_image
@click.option("--force", is_flag=True, help="Replace what is there; write it even if slower than float.")
@options.reporting
def command(
    *,
    program: str,
    precision: str | None,
    recipe: str | None,
    submodel: str | None,
    slices: str | None,
    flops_budget: str | None,
    size_budget: str | None,
    latency_budget: str | None,
    device: str | None,
    python: str | None,
    ssh_config: str | None,
    remote_folder: str | None,
    benchmark_model: str | None,
    calib: str | None,
    output_file: str,
    torch_device: str,
    on_bad_image: Any,
    force: bool,
    as_json: bool,
    quiet: bool,
    **choices: Any,
) -> None:
    """Quantize PROGRAM, a .pt2 file, with the images of a folder, or take a submodel out of it."""
    output.prepare(as_json=as_json, quiet=quiet)
    asked = {
        "submodel": submodel,
        "flops-budget": flops_budget,
        "size-budget": size_budget,
        "latency-budget": latency_budget,
    }
    where: dict[str, Any] = {"output": output_file, "force": force, "as_json": as_json}
    given = {"calib": calib, "on_bad_image": on_bad_image}
    elsewhere = None if torch_device == "cpu" else torch_device
    timed = submodels.Timed(device, python, ssh_config, remote_folder, benchmark_model)
    timed.check(asked)
    if submodel is not None:
        fitting = {name: choices.pop(name) for name in ("images", "seed")}
        others = {"quantize": precision, "recipe": recipe, "torch-device": elsewhere}
        submodels.check_alone(asked, others | choices)
        submodels.extract(program, submodel, given | fitting, slices=slices, **where)
        return
    if any(value is not None for value in asked.values()):
        quantizing = None if precision is None else _recipe(precision, None, choices)
        fitting = {name: choices.pop(name) for name in submodels.fitting_options(asked)}
        left = {} if quantizing is not None else choices
        others = {"recipe": recipe, "slices": slices, "torch-device": elsewhere}
        submodels.check_alone(asked, others | left)
        submodels.search(program, asked, given | fitting, timed, recipe=quantizing, **where)
        return
    if slices is not None:
        raise click.UsageError("--slices without --submodel: say which of them")
    wanted = _recipe(precision, recipe, choices)
    if calib is None:
        raise click.UsageError("--calib is missing: a folder of images to calibrate with")
    from edgevit.compression import compress, summary

    result = compress(
        program,
        calib=calib,
        output=output_file,
        recipe=wanted,
        torch_device=torch_device,
        on_bad_image=on_bad_image,
        force=force,
    )
    if as_json:
        output.print_json(summary(result))
        return
    print_result(result)


def _recipe(precision: str | None, path: str | None, choices: dict[str, Any]) -> QuantizeRecipe:
    """What was asked for: on the command line, or in a file."""
    given = {name: value for name, value in choices.items() if value not in (None, ())}
    if (precision is None) == (path is None):
        raise click.UsageError("give one of --quantize BITS, --recipe FILE and --submodel NAME")
    from edgevit.recipe import QuantizeRecipe, Recipe

    if path is None:
        return QuantizeRecipe.of_options({"precision": precision, **given})
    if given:
        option = next(iter(given)).replace("_", "-")
        raise click.UsageError(f"--{option} with --recipe: write it into {path}, which says everything")
    return Recipe.read(path).quantize


def print_result(result: CompressResult) -> None:
    """What was decided, what it cost and gained, and what comes next."""
    found = result.quantization
    for remark in found.remarks:
        click.echo(f"note: {remark}")
    if result.placement is not None:
        for candidate in result.placement.candidates:
            click.echo(
                f"  {candidate.region}: {_layers(candidate.layers)} at {candidate.level.lower()}, "
                f"{candidate.ratio:.2f}x"
            )
    for layer in found.widened[:_SHOWN]:
        click.echo(f"  {layer} reads 16 bits: --max-drop {found.options.max_drop:g}")
    if len(found.widened) > _SHOWN:
        click.echo(f"  and {len(found.widened) - _SHOWN} more")
    for layer, reason in list(found.kept_float.items())[:_SHOWN]:
        click.echo(f"  {layer} stays float: {reason}")
    if len(found.kept_float) > _SHOWN:
        click.echo(f"  and {len(found.kept_float) - _SHOWN} more")
    worst = sorted(found.sensitivity, key=lambda item: -item.divergence)[:_SHOWN]
    if worst:
        names = ", ".join(f"{item.module or item.layer} {item.divergence:.2g}" for item in worst)
        click.echo(f"most sensitive (KL in nats when quantized alone): {names}")
    if result.format is not None:
        click.echo(
            f"{result.format}: {result.latency_ratio:.2f}x the latency of float on one thread, "
            f"{result.size_ratio:.2f}x its size"
        )
    cost = f"drop {found.drop:.2f} points" if result.labelled else f"{found.drop:.2f} % of classes change"
    click.echo(
        f"{output.TICK} {result.path}  {cost} on {found.images} images, "
        f"{found.seconds:.0f} s, {found.peak_memory_mib:.0f} MiB"
    )
    click.echo(f"  again: edgevit compress PROGRAM --recipe {result.recipe} --calib DIR -o FILE")
    to = result.format or "onnx"
    has_int16 = found.options.precision.endswith("a16") or found.widened
    opset = " --opset 23" if to == "onnx" and has_int16 else ""
    click.echo(f"next: edgevit export {result.path} --to {to}{opset} -o {result.path.with_suffix('')}-{to}")
    click.echo(f"report: {result.page}")


def _layers(count: int) -> str:
    return "1 layer" if count == 1 else f"{count} layers"
