"""``edgevit run``."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgevit.cli import options, output
from edgevit.cli.log import print_log
from edgevit.cli.plan import seconds

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from edgevit.graph.card import Card
    from edgevit.runtime.running import RunOptions, RunResult

# A warm-up of the runtimes, which compute their first items slower.
_WARM_UP = 4


@click.command(short_help="Run a plan on images, over workers on devices or on this machine.")
@click.argument("plan")
@click.option("--data", metavar="DIR", help="Labelled images, class folders or labels.csv, or images alone.")
@click.option("--images", multiple=True, metavar="FILE", help="An image whose class is named; repeatable.")
@click.option("--noise", type=click.IntRange(min=1), metavar="N", help="Run N images of noise instead.")
@options.placing
@click.option("--deadline", type=float, metavar="SECONDS", help="That one answer may take.  [default: none]")
@options.on_bad_image
@click.option(
    "--save",
    metavar="FILE",
    help="Write what was measured (YAML), for `edgevit plan --from-run`; lines are measured for it.",
)
@options.force
@options.reporting
def command(
    *,
    plan: str,
    data: str | None,
    images: tuple[str, ...],
    noise: int | None,
    deadline: float | None,
    on_bad_image: str,
    save: str | None,
    force: bool,
    as_json: bool,
    quiet: bool,
    **placing: Any,
) -> None:
    """Run PLAN, a file that `edgevit plan` wrote; workers are those of `edgevit worker`, or --local."""
    output.prepare(as_json=as_json, quiet=quiet)
    if (data is not None) + bool(images) + (noise is not None) != 1:
        raise click.UsageError("give one of --data DIR, --images FILE, --noise N")
    if deadline is not None and not 0 < deadline < math.inf:
        raise click.UsageError(f"--deadline {deadline}: must be above 0 seconds and finite")
    saved = None if save is None else options.yaml_output("save", save, force=force)
    print_log(logging.WARNING, "%(message)s")
    from edgevit.runtime.record import record
    from edgevit.runtime.running import run_images, running

    with running(plan, run_options(**placing)) as coordinator:
        items = _Images(coordinator.model.card, coordinator.model.shape, data or images, noise, on_bad_image)
        run_images(coordinator, items.some(_WARM_UP), _WARM_UP)
        result = run_images(coordinator, items, len(items), deadline=deadline or math.inf)
        scores = next(iter(result.outputs.values()))
        accuracy = items.accuracy(scores)
        named = items.named(scores) if images else {}
        if saved is not None:
            record(coordinator, result, Path(plan)).write(saved)
        origin = coordinator.model.origin
    if as_json:
        output.print_json(_summary(result, accuracy) | ({"classes": named} if named else {}))
        return
    print_run(result, accuracy)
    if named:
        output.print_table([[file, name, f"{100 * share:.1f} %"] for file, (name, share) in named.items()])
    if saved is not None:
        click.echo(f"{output.TICK} {saved}")
        click.echo(f"next: edgevit plan {origin} --devices CLUSTER.yaml --from-run {saved} -o NEXT.yaml")


def run_options(
    *,
    model: str | None,
    local: int | None,
    listen: tuple[str, ...],
    connect: tuple[str, ...],
    tls: str | None,
    insecure: bool,
    in_flight: int | None,
    patience: float,
    spares: bool,
    wait: float,
) -> RunOptions:
    """What was said about where a plan runs."""
    from edgevit.runtime.coordinator import CoordinatorOptions
    from edgevit.runtime.running import RunOptions
    from edgevit.runtime.transport import Links

    return RunOptions(
        model=None if model is None else Path(model),
        links=Links(listen, connect, None if tls is None else Path(tls), insecure),
        local=local is not None,
        workers=local or None,
        spares=spares,
        wait=wait,
        coordinator=CoordinatorOptions(in_flight=in_flight, patience=patience),
    )


class _Images:
    """Items of a folder of images, of some files, or of noise."""

    def __init__(
        self,
        card: Card,
        shape: tuple[int, ...],
        data: str | tuple[str, ...],
        noise: int | None,
        on_bad_image: str,
    ) -> None:
        import numpy as np

        self._labels: list[int] | None = None
        self._names = card.labels
        if not data:
            random = np.random.default_rng(0)
            self._images: npt.NDArray[np.float32] = random.standard_normal(
                (noise or 0, *shape), dtype=np.float32
            )
            return
        from edgevit.images import ImageFolder, ImageReader, open_folder

        folder = (
            open_folder(data, class_names=card.labels)
            if isinstance(data, str)
            else ImageFolder(Path(), tuple(map(Path, data)), None, "no classes")
        )
        reader = ImageReader(folder, card.preprocessing, on_bad_image=on_bad_image)  # type: ignore[arg-type]
        batches = list(reader)
        prepared = np.concatenate(
            [batch.images for batch in batches] or [np.zeros((0, *shape[1:]), np.float32)]
        )
        self._files = [str(folder.files[place]) for batch in batches for place in batch.indices]
        if not isinstance(data, str) and len(prepared) % shape[0]:
            raise click.UsageError(f"--images: {len(prepared)} files; the plan takes {shape[0]} at a time")
        # What is left of a last item that is not full is not run.
        whole = len(prepared) // shape[0] * shape[0]
        self._images = prepared[:whole].reshape(-1, *shape)
        if folder.labels is not None:
            self._labels = [label for batch in batches for label in batch.labels or ()][:whole]

    def __len__(self) -> int:
        return len(self._images)

    def __iter__(self) -> Iterator[npt.NDArray[np.float32]]:
        return iter(self._images)

    def some(self, count: int) -> list[npt.NDArray[np.float32]]:
        """A few items, from the start again where there are not so many."""
        return [self._images[place % len(self._images)] for place in range(count if len(self) else 0)]

    def named(self, logits: npt.NDArray[Any]) -> dict[str, tuple[str, float]]:
        """Name of the best class of each file, or its number, and the probability."""
        import numpy as np

        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        best = shares.argmax(axis=1)
        return {
            file: (str(place) if self._names is None else self._names[place], float(row[place]))
            for file, row, place in zip(self._files, shares, best, strict=True)
        }

    def accuracy(self, logits: npt.NDArray[Any]) -> float | None:
        """Percent whose best class is the label; None where there are no labels."""
        if self._labels is None:
            return None
        return 100 * float((logits.argmax(axis=1) == self._labels).mean())


def _summary(result: RunResult, accuracy: float | None) -> dict[str, object]:
    return {
        "n": result.n,
        "seconds": result.seconds,
        "items_per_second": result.throughput,
        "planned_items_per_second": result.planned_throughput,
        "latency_seconds": {f"p{share}": result.percentile(share) for share in (50, 90, 99)},
        "planned_latency_seconds": result.planned_latency,
        "top1": accuracy,
        "degraded": result.degraded,
        "repeated": result.repeated,
        "switches": result.switches,
        "steps": result.steps,
    }


def print_run(result: RunResult, accuracy: float | None) -> None:
    """What was measured beside what was planned."""
    planned = result.planned_throughput
    share = (
        "" if planned is None else f", {100 * result.throughput / planned:.3g} % of the planned {planned:.4g}"
    )
    click.echo(f"{result.n} answered in {seconds(result.seconds)}: {result.throughput:.4g} items/s{share}")
    shares = "   ".join(f"p{share} {seconds(result.percentile(share))}" for share in (50, 90, 99))
    click.echo(f"latency {shares} (planned {seconds(result.planned_latency)} with nothing else on the way)")
    rows = [["device", "runs", "computes", "planned", "waits", "receives", "sends"]]
    rows += [
        [
            step.device,
            f"{step.task}, {step.runs} times",
            seconds(step.seconds),
            "" if step.planned is None else seconds(step.planned),
            seconds(step.waited),
            f"{step.received:,.0f} B",
            f"{step.sent:,.0f} B",
        ]
        for step in result.steps
    ]
    output.print_table(rows)
    if accuracy is not None:
        click.echo(f"top-1 {accuracy:.2f} %")
    if result.switches or result.repeated or result.degraded:
        click.echo(
            f"{result.switches} changes of plan, {result.repeated} sent more than once, "
            f"{result.degraded} answered without some parts"
        )
