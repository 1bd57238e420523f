"""A model over four hosts: throughput and latency beside the plan's, one device's and the network's own.

    sudo python benchmarks/split.py [--mbit 100] [--loss 0.01] [--images 200] [--weights vit_tiny.safetensors]

Hosts are network namespaces on one bridge, each with a line of `--mbit` (tc tbf, both ways) on which a share
of the packets may be lost (nftables), or come late where the kernel has netem. The coordinator is on the
first, which has the images and wants the answers. Three plans are run: the whole on one host; a pipeline, for
which no host has memory for the whole; and a class-wise ensemble of four parts, one to a host, whose weights
are random (its accuracy is not the question here). Answers are compared with those of the same files run on
one device. The plan's speeds are measured: ONNX Runtime, one thread. All hosts share this machine's cores, so
a plan holds where lines are what limits; how many cores were busy while it ran is printed beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hosts import COMMAND, address, delay, inside, lose, network, sh

from edgevit.export import export, open_artefact
from edgevit.graph.capture import capture
from edgevit.graph.costs import count_macs
from edgevit.graph.program import Program
from edgevit.planning.plan_file import PlanFile
from edgevit.planning.plans import PlanOptions, plan
from edgevit.profiling import profile
from edgevit.pruning.classwise import split_classes
from edgevit.pruning.split import read_split

PORT = 7447
RUN_PLAN = Path(__file__).with_name("run_plan.py")
CLASSES, PARTS = 8, 4


def floor(hosts: list[str], size: int) -> float:
    """Bytes in a second from the first host to the second over plain TCP."""
    receive = (
        "import socket,time\n"
        f"s=socket.create_server(('{address(1)}', 9000)); print('up', flush=True); c,_=s.accept(); n=0\n"
        "c.recv(1); t=time.perf_counter()\n"
        "while b:=c.recv(1<<16): n+=len(b)\n"
        "print(n/(time.perf_counter()-t))"
    )
    send = f"import socket; socket.create_connection(('{address(1)}', 9000)).sendall(bytes({size}))"
    receiver = subprocess.Popen(
        inside(hosts[1], sys.executable, "-c", receive), stdout=subprocess.PIPE, text=True
    )
    receiver.stdout.readline()
    sh(*inside(hosts[0], sys.executable, "-c", send))
    return float(receiver.stdout.read())


def speed_here(program: Program, artefact: Path) -> float:
    """Multiply-accumulates in a second of one core of this machine."""
    seconds = profile(artefact, threads=1).percentile(50) / 1e3
    print(f"the whole model on one core: {1e3 * seconds:.1f} ms")
    return count_macs(program) / seconds


def write_cluster(path: Path, hosts: int, *, speed: float, bandwidth: float, memory: float) -> None:
    """A cluster file of hosts that are alike."""
    path.write_text(
        f"version: 1\nnetworks: [{{name: lan, bytes_per_second: {bandwidth:.6g}, latency_seconds: 0.0001}}]\n"
        f"devices: [{{name: evt, count: {hosts}, memory_bytes: {memory:.6g}, "
        f"macs_per_second: {speed:.6g}, network: lan}}]\nroles: {{input: evt-1, answer: evt-1}}\n"
    )


def run(hosts: list[str], path: Path, images: np.ndarray) -> tuple[dict[str, Any], np.ndarray]:
    """Figures and logits of a plan, run from the first host with workers on all that it uses."""
    used = [device.name for device in PlanFile.read(path).devices]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    workers = [
        subprocess.Popen(
            inside(
                host, *COMMAND, "worker", "--name", host, "--listen", f"{address(place)}:{PORT}",
                "--connect", f"{address(0)}:{PORT + 1}", "--insecure", "--until-eof",
            ),
            stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment,
        )
        for place, host in enumerate(hosts)
        if host in used
    ]  # fmt: skip
    given, taken = path.with_suffix(".npy"), path.with_suffix(".npz")
    np.save(given, images)
    try:
        words = [RUN_PLAN, path, given, taken, "--listen", f"{address(0)}:{PORT + 1}"]
        subprocess.run(inside(hosts[0], sys.executable, *words), check=True, env=environment)
    finally:
        for worker in workers:
            worker.communicate()
    with np.load(taken) as found:
        figures: dict[str, Any] = json.loads(str(found["figures"]))
        return figures, found[next(name for name in found.files if name != "figures")]


def show(name: str, figures: dict[str, Any], found: np.ndarray, expected: np.ndarray) -> None:
    rate, planned = figures["throughput"], figures["planned"]
    cores = os.cpu_count() or 1
    print(
        f"{name}: {rate:.2f} images/s, {100 * rate / planned:.1f} % of the planned {planned:.2f}; latency "
        f"p50 {1e3 * figures['p50']:.0f} ms, planned {1e3 * figures['planned_latency']:.0f} ms alone; "
        f"{figures['busy']:.2f} of {cores} cores busy"
    )
    if rate < 0.9 * planned and figures["busy"] > 0.9 * cores:
        print("  the cores limit: the plan is for hosts that each have one")
    same = "to the bit" if np.array_equal(found, expected) else f"to {np.abs(found - expected).max():.2g}"
    print(
        f"  {len(found)} answers are those of one device, {same}; {figures['repeated']} sent more than once"
    )


@dataclass(frozen=True)
class Case:
    """A plan to be run.

    Attributes:
        mode: of the plan.
        origin: the model's file, or a split's folder.
        memory: bytes of each host.
        images: (n, 3, height, width) float32.
        expected: logits for them, from a device alone.
    """

    mode: str
    origin: Path
    memory: float
    images: np.ndarray
    expected: np.ndarray


def whole_and_pipeline(program: Program, artefact: Path, hosts: int, images: int, path: Path) -> list[Case]:
    program.save(path)
    given = np.random.default_rng(0).standard_normal((images, *shape_of(program)), dtype=np.float32)
    expected = one_by_one(artefact, given)
    weights = sum(tensor.nbytes for tensor in program.exported.state_dict.values())
    # No host has room for the whole where it is to be divided.
    room = {"single": 4.0 * weights, "pipeline": 1.2 * weights / hosts + 4e6}
    return [Case(mode, path, memory, given, expected) for mode, memory in room.items()]


def ensemble(model: str, images: int, folder: Path) -> Case:
    """A split of a classifier with few classes; its fusion learns from noise."""
    program = capture(model, weights="random", num_classes=CLASSES)
    noise = np.random.default_rng(1).standard_normal((6 * CLASSES, *shape_of(program)), dtype=np.float32)
    labels = np.arange(len(noise)) % CLASSES
    split_classes(program, noise, labels, parts=PARTS, grouping="random", epochs=0, output=folder / "split")
    split = read_split(folder / "split")
    given = np.random.default_rng(2).standard_normal((images, *shape_of(program)), dtype=np.float32)
    features = []
    for part in split.parts:
        written = export(part, output=folder / part.card.name, batch=1)
        features.append(torch.from_numpy(one_by_one(written.artefacts[0].path, given, -1)))
    # No host has room for two.
    room = 1.2 * max(part.bytes for part in split.manifest.parts) + 2e6
    return Case("ensemble", folder / "split", room, given, split.fusion.predict(features).numpy())


def shape_of(program: Program) -> list[int]:
    return [int(str(size)) for size in program.input_shape[1:]]


def one_by_one(artefact: Path, images: np.ndarray, output: int = 0) -> np.ndarray:
    """An output of a file for each image, run here."""
    opened: Callable[..., list[np.ndarray]] = open_artefact(artefact).run
    return np.concatenate([opened(image[None])[output] for image in images])


def spoil(hosts: list[str], loss: float, milliseconds: float) -> None:
    if loss and shutil.which("nft") is None:
        sys.exit("--loss: needs the program `nft`; install nftables")
    for host in hosts if loss else ():
        lose(host, loss)
    if milliseconds and not all(delay(host, milliseconds) for host in hosts):
        print("delay: not available, this kernel has no netem")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mbit", type=float, default=100.0)
    parser.add_argument("--loss", type=float, default=0.0, help="share of the packets")
    parser.add_argument("--delay", type=float, default=0.0, help="milliseconds, each way")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--hosts", type=int, default=4)
    parser.add_argument("--model", default="timm:vit_tiny_patch16_224")
    parser.add_argument("--weights", default="random")
    parser.add_argument("--modes", default="single,pipeline,ensemble")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, network(options.hosts, options.mbit) as hosts:
        spoil(hosts, options.loss, options.delay)
        folder, modes = Path(name), options.modes.split(",")
        program = capture(options.model, weights=options.weights)
        artefact = export(program, output=folder / "whole", batch=1).artefacts[0].path
        speed = speed_here(program, artefact)
        cases = whole_and_pipeline(program, artefact, options.hosts, options.images, folder / "model.pt2")
        cases += [ensemble(options.model, options.images, folder)] if "ensemble" in modes else []
        bandwidth = floor(hosts, int(options.mbit * 1e6 / 4))
        lost = f", {100 * options.loss:g} % of the packets lost" if options.loss else ""
        print(f"plain TCP between two hosts{lost}: {8e-6 * bandwidth:.1f} Mbit/s")
        for case in (case for case in cases if case.mode in modes):
            path, cluster = folder / f"{case.mode}.yaml", folder / f"{case.mode}-cluster.yaml"
            write_cluster(cluster, options.hosts, speed=speed, bandwidth=bandwidth, memory=case.memory)
            made = plan(case.origin, devices=cluster, options=PlanOptions(mode=case.mode))
            made.write(path)
            figures, found = run(hosts, path, case.images)
            used = len({task.device for task in made.plan.tasks})
            show(f"{case.mode} on {used} hosts", figures, found, case.expected)


if __name__ == "__main__":
    main()
