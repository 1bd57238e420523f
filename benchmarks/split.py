"""A model over four hosts: throughput and latency beside the plan's, one device's and the network's own.

    sudo python benchmarks/split.py [--mbit 100] [--images 200] [--weights vit_tiny.safetensors]

Hosts are network namespaces on one bridge, each with a line of `--mbit` (tc tbf, both ways). The coordinator
is on the first, which has the images and wants the answers. The plan's speeds are measured: ONNX Runtime, one
thread, the whole model; for the pipeline no host has memory for the whole. All hosts share this machine's
cores, so the plan holds where lines are what limits, and the load of the cores is printed beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from hosts import COMMAND, address, inside, network, sh

from edgevit.export import export
from edgevit.graph.capture import capture
from edgevit.graph.costs import count_macs
from edgevit.graph.program import Program
from edgevit.planning.plan_file import PlanFile
from edgevit.planning.plans import PlanOptions, plan
from edgevit.profiling import profile

PORT = 7447


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


def speed_here(program: Program, folder: Path) -> float:
    """Multiply-accumulates in a second of one core of this machine."""
    artefact = export(program, output=folder / "whole").artefacts[0].path
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


def run(hosts: list[str], path: Path, images: int) -> dict[str, Any]:
    """What `edgevit run` reports on the first host, workers on all."""
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
    try:
        words = ["run", path, "--noise", images, "--json", "--insecure", "--no-spares"]
        words += ["--listen", f"{address(0)}:{PORT + 1}", "--patience", 60]
        result = subprocess.run(
            inside(hosts[0], *COMMAND, *words), capture_output=True, text=True, check=True, env=environment
        )
        report: dict[str, Any] = json.loads(result.stdout)
        return report
    finally:
        for worker in workers:
            worker.communicate()


def show(name: str, report: dict[str, Any], processor: float) -> None:
    rate, planned = report["items_per_second"], report["planned_items_per_second"]
    print(
        f"{name}: {rate:.2f} images/s, {100 * rate / planned:.1f} % of the planned {planned:.2f}; "
        f"latency p50 {1e3 * report['latency_seconds']['p50']:.0f} ms; {processor:.2f} cores busy"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mbit", type=float, default=100.0)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--hosts", type=int, default=4)
    parser.add_argument("--model", default="timm:vit_tiny_patch16_224")
    parser.add_argument("--weights", default="random")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, network(options.hosts, options.mbit) as hosts:
        folder = Path(name)
        program = capture(options.model, weights=options.weights)
        program.save(folder / "model.pt2")
        bandwidth = floor(hosts, int(options.mbit * 1e6 / 4))
        print(f"plain TCP between two hosts: {8e-6 * bandwidth:.1f} Mbit/s")
        speed = speed_here(program, folder)
        weights = sum(tensor.nbytes for tensor in program.exported.state_dict.values())
        # No host has room for the whole where it is to be divided.
        room = {"single": 4.0 * weights, "pipeline": 1.2 * weights / options.hosts + 4e6}
        for mode, memory in room.items():
            path, cluster = folder / f"{mode}.yaml", folder / f"{mode}-cluster.yaml"
            write_cluster(cluster, options.hosts, speed=speed, bandwidth=bandwidth, memory=memory)
            made = plan(folder / "model.pt2", devices=cluster, options=PlanOptions(mode=mode))
            made.write(path)
            before, started = os.times(), time.perf_counter()
            report = run(hosts, path, options.images)
            after, elapsed = os.times(), time.perf_counter() - started
            busy = after.children_user + after.children_system - before.children_user - before.children_system
            show(f"{mode} on {len(made.plan.tasks)} hosts", report, busy / elapsed)


if __name__ == "__main__":
    main()
