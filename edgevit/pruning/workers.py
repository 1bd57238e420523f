"""Independent jobs: in this process, in several on this machine, or on the nodes of a cluster."""

from __future__ import annotations

import logging
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch

from edgevit import extras, progress
from edgevit.errors import EdgevitError, closest
from edgevit.pruning.parts import Material

Parallel = Literal["local", "ray"]

# Can be pickled: a function of a module, its first arguments bound.
Job = Callable[[Material], bytes]


@dataclass(frozen=True)
class Done:
    """What came of a job.

    Attributes:
        name: of the job.
        data: what it gave.
        where: on which process or node it ran.
    """

    name: str
    data: bytes
    where: str


@dataclass(frozen=True)
class Workers:
    """Who does the jobs.

    Attributes:
        parallel: "local" or "ray".
        count: processes on this machine; None for as many as torch has threads. A cluster has its own count.
        torch_device: "cuda" takes a GPU of the cluster for each job.

    Raises:
        EdgevitError: when there are none, or Ray is asked for and not installed.
    """

    parallel: Parallel = "local"
    count: int | None = None
    torch_device: str = "cpu"

    def __post_init__(self) -> None:
        if self.parallel not in get_args(Parallel):
            raise EdgevitError(
                f"--parallel: {self.parallel!r} is unknown; {closest(self.parallel, get_args(Parallel))}"
            )
        if self.count is not None and self.count < 1:
            raise EdgevitError(f"--workers: {self.count} processes; one at least is needed")
        if self.parallel == "ray":
            if self.count is not None:
                raise EdgevitError(
                    "--workers with --parallel ray: a part takes one CPU of the cluster; leave it out"
                )
            extras.require("cluster", "--parallel ray")

    def run(self, jobs: Mapping[str, Job], read: Callable[[], Material]) -> Iterator[Done]:
        """Do all jobs and hand on each as it is finished, in any order.

        Args:
            jobs: by name.
            read: gives the material; called in each process on this machine, so it must be one that can be
                pickled.
        """
        if not jobs:
            return iter(())
        if self.parallel == "ray":
            return _on_ray(jobs, read(), gpus=int(self.torch_device == "cuda"))
        count = min(len(jobs), self.count or torch.get_num_threads())
        return _one_by_one(jobs, read()) if count == 1 else _in_processes(jobs, read, count)


def _one_by_one(jobs: Mapping[str, Job], material: Material) -> Iterator[Done]:
    for name, job in jobs.items():
        yield Done(name, job(material), "this process")


def _in_processes(jobs: Mapping[str, Job], read: Callable[[], Material], count: int) -> Iterator[Done]:
    """Each job in a process of its own, so many at a time."""
    threads = max(1, torch.get_num_threads() // count)
    running: list[subprocess.Popen[bytes]] = []
    with ThreadPoolExecutor(count) as pool:
        futures = {pool.submit(_in_process, job, read, threads, running): name for name, job in jobs.items()}
        try:
            for future in as_completed(futures):
                data, number = future.result()
                yield Done(futures[future], data, f"process {number}")
        finally:
            # Where one was refused, what the others do is of no use.
            pool.shutdown(wait=False, cancel_futures=True)
            for process in running:
                process.kill()


def _in_process(
    job: Job, read: Callable[[], Material], threads: int, running: list[subprocess.Popen[bytes]]
) -> tuple[bytes, int]:
    # Ctrl-C goes to a whole session, and what it leaves is for the first process to say; the others end when
    # their standard input does.
    with subprocess.Popen(
        [sys.executable, "-m", "edgevit.pruning.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        start_new_session=True,
    ) as process:
        running.append(process)
        try:
            pickle.dump((job, read, threads), process.stdin)  # type: ignore[arg-type]
            process.stdin.flush()  # type: ignore[union-attr]
            answer = process.stdout.read()  # type: ignore[union-attr]
        except BrokenPipeError:
            answer = b""
    if not answer:
        raise EdgevitError(
            "--workers: a process ended before its part was done, as when memory is short; repeat the "
            "command with fewer workers to go on"
        )
    found = pickle.loads(answer)  # noqa: S301 - what our own process said
    if isinstance(found, Exception):
        raise found
    return found, process.pid


def _on_ray(jobs: Mapping[str, Job], material: Material, *, gpus: int) -> Iterator[Done]:
    """Each job takes one CPU of the cluster; what a lost node was doing is done again on another."""
    import ray

    started = not ray.is_initialized()
    if started:
        # What runs here is told to nobody, unless somebody decided that it may be.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(log_to_driver=False, logging_level=logging.ERROR)
    try:
        remote = ray.remote(_on_node).options(num_cpus=1, num_gpus=gpus, scheduling_strategy="SPREAD")
        shared = ray.put(material)
        names = {remote.remote(job, shared): name for name, job in jobs.items()}
        pending = list(names)
        while pending:
            (ready, *_), pending = ray.wait(pending, num_returns=1)
            data, node = _ray_result(ray.get, ready, names[ready])
            yield Done(names[ready], data, f"node {node}")
    finally:
        if started:
            ray.shutdown()


def _on_node(job: Job, material: Material) -> tuple[bytes, str]:
    import ray

    progress.silence()
    return job(material), str(ray.get_runtime_context().get_node_id())


def _ray_result(get: Callable[[Any], Any], ready: Any, name: str) -> tuple[bytes, str]:
    """What a job gave, or its error as it would be without a cluster."""
    import ray

    try:
        data, node = get(ready)
    except ray.exceptions.RayTaskError as error:
        raise (error.cause if isinstance(error.cause, Exception) else error) from error
    except ray.exceptions.RayError as error:
        reason = str(error).strip().splitlines()[0]
        raise EdgevitError(f"--parallel ray: {name} could not be finished: {reason}") from error
    return data, node
