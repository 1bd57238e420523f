"""KServe: an InferenceService for each stage, and an InferenceGraph that routes requests through them.

API: https://github.com/kserve/kserve, `config/crd`. The graph's router hands the answer of a stage on to the
next one as it is, which servers of models do not take as a request; `edgevit stage` does, and passes on the
tensors that a later stage needs.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import yaml

from edgevit.errors import EdgevitError
from edgevit.runtime.emit.fusion import write_fusion
from edgevit.runtime.emit.options import EmitOptions
from edgevit.runtime.emit.source import Source
from edgevit.runtime.lanes import Step
from edgevit.runtime.models import EnsembleModel

Document = dict[str, object]

_FILE, _MODELS = "kserve.yaml", "models"
# Of Kubernetes' names; KServe puts words of its own behind ours, and 63 letters are all there are.
_NAME = re.compile(r"[a-z](?:[-a-z0-9]{0,38}[a-z0-9])?")
_LABEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
_PORT = 8080
_MOUNT = "/mnt/models"


def write(source: Source, folder: Path, options: EmitOptions) -> list[str]:
    """Write `kserve.yaml`, and the files that its services load into `models`.

    Raises:
        EdgevitError: when a name is none that Kubernetes allows.
    """
    _check_names(source)
    emitter = _Emitter(source, folder, options)
    mode = source.plan.plan.mode
    writers = {"replicas": emitter.replicas, "ensemble": emitter.ensemble, "pipeline": emitter.pipeline}
    documents = writers.get(mode, emitter.single)()
    text = yaml.safe_dump_all(documents, sort_keys=False, width=110)
    (folder / _FILE).write_text(text, encoding="utf-8")
    return [
        f"bring {_MODELS} to {options.storage}, then: kubectl apply -f {_FILE}",
        "each stage is for the node whose kubernetes.io/hostname is the device's name",
        "tensors pass through KServe's router as JSON, in full, whatever the plan says of the wire; no other "
        "plan takes over for a lost device",
    ]


def _check_names(source: Source) -> None:
    if not _NAME.fullmatch(source.name):
        raise EdgevitError(
            f"the service cannot be called {source.name}: Kubernetes takes a-z, 0-9 and -, a letter first, "
            "at most 40; say another --name"
        )
    for task in source.plan.plan.tasks:
        if not _LABEL.fullmatch(task.device) or len(task.device) > 63:
            raise EdgevitError(f"{source.path}: device {task.device}: is no name of a node")


class _Emitter:
    """Documents of a plan, its files put beside them."""

    def __init__(self, source: Source, folder: Path, options: EmitOptions) -> None:
        self._source, self._folder, self._options = source, folder, options

    def single(self) -> list[Document]:
        """One service, under the name of the whole."""
        (lane,) = self._source.layout.lanes
        return [self._service(self._source.name, lane.steps[0])]

    def pipeline(self) -> list[Document]:
        """A service for each stage, and a sequence of them."""
        (lane,) = self._source.layout.lanes
        names = [f"{self._source.name}-stage-{place}" for place in range(len(lane.steps))]
        services = [self._service(name, step) for name, step in zip(names, lane.steps, strict=True)]
        return [*services, self._graph({"root": _node("Sequence", _sequence(names))})]

    def replicas(self) -> list[Document]:
        """A service for each device, and a splitter that gives each its share of requests."""
        lanes = self._source.layout.lanes
        names = [f"{self._source.name}-replica-{place}" for place in range(len(lanes))]
        services = [self._service(name, lane.steps[0]) for name, lane in zip(names, lanes, strict=True)]
        weights = percentages([lane.share for lane in lanes])
        steps = [{"serviceName": name, "weight": weight} for name, weight in zip(names, weights, strict=True)]
        return [*services, self._graph({"root": _node("Splitter", steps)})]

    def ensemble(self) -> list[Document]:
        """A service for each part, asked side by side, and one that makes an answer of their features."""
        source = self._source
        if not isinstance(source.model, EnsembleModel):
            raise EdgevitError(f"{source.path}: is of no class-wise split")
        lanes = sorted(source.layout.lanes, key=lambda lane: lane.number)
        names = [f"{source.name}-part-{lane.number}" for lane in lanes]
        services = [self._service(name, lane.steps[0]) for name, lane in zip(names, lanes, strict=True)]
        fusion, logits = f"{source.name}-fusion", source.model.card.outputs[0]
        path = self._folder / _MODELS / fusion / "model.onnx"
        write_fusion(source.model.fusion, tuple(names), logits, source.plan.items, path)
        device = source.plan.answer
        services.append(
            self._resource(fusion, path, takes=names, gives=[logits], sends=[logits], device=device)
        )
        parts: list[Document] = [{"name": name, "serviceName": name, "dependency": "Hard"} for name in names]
        root: list[Document] = [
            {"name": "parts", "nodeName": "parts", "dependency": "Hard"},
            {"name": fusion, "serviceName": fusion, "data": "$response", "dependency": "Hard"},
        ]
        nodes: Document = {"root": _node("Sequence", root), "parts": _node("Ensemble", parts)}
        return [*services, self._graph(nodes)]

    def _service(self, name: str, step: Step) -> Document:
        path = self._folder / _MODELS / name / step.piece.path.name
        path.parent.mkdir(parents=True)
        shutil.copyfile(step.piece.path, path)
        return self._resource(
            name, path, takes=step.piece.takes, gives=step.piece.gives, sends=step.sends, device=step.device
        )

    def _resource(
        self,
        name: str,
        path: Path,
        *,
        takes: Sequence[str],
        gives: Sequence[str],
        sends: Sequence[str],
        device: str | None,
    ) -> Document:
        words = ["stage", f"{_MOUNT}/{path.name}", "--name", name]
        for option, names in (("--takes", takes), ("--gives", gives), ("--sends", sends)):
            words += [option, ",".join(names)]
        # Everything in a cluster reaches a pod: who may is for the cluster's network policies.
        words += ["--http", str(_PORT), "--host", "0.0.0.0", "--insecure"]  # noqa: S104
        storage = f"{str(self._options.storage).rstrip('/')}/{name}"
        predictor: Document = {
            "minReplicas": 1,
            "containers": [_container(str(self._options.image), words, storage)],
        }
        if device is not None:
            predictor["nodeSelector"] = {"kubernetes.io/hostname": device}
        return {
            "apiVersion": "serving.kserve.io/v1beta1",
            "kind": "InferenceService",
            "metadata": {"name": name, "annotations": _PLAIN_DEPLOYMENT},
            "spec": {"predictor": predictor},
        }

    def _graph(self, nodes: Document) -> Document:
        return {
            "apiVersion": "serving.kserve.io/v1alpha1",
            "kind": "InferenceGraph",
            "metadata": {"name": self._source.name, "annotations": _PLAIN_DEPLOYMENT},
            "spec": {"nodes": nodes},
        }


# Without Knative, which would scale stages to nothing and forbids to choose nodes unless told otherwise.
_PLAIN_DEPLOYMENT = {"serving.kserve.io/deploymentMode": "RawDeployment"}


def _container(image: str, words: Sequence[str], storage: str) -> Document:
    return {
        # The name by which KServe knows the container that it gives the storage to.
        "name": "kserve-container",
        "image": image,
        "command": ["edgevit"],
        "args": list(words),
        "env": [{"name": "STORAGE_URI", "value": storage}, {"name": "PROTOCOL", "value": "v2"}],
        "ports": [{"containerPort": _PORT, "protocol": "TCP"}],
        "readinessProbe": {"httpGet": {"path": "/v2/health/ready", "port": _PORT}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
        },
    }


def _node(kind: str, steps: Sequence[Document]) -> Document:
    return {"routerType": kind, "steps": list(steps)}


def _sequence(names: Sequence[str]) -> list[Document]:
    """Stages one after the other; where one fails its sentence is the answer."""
    asked = [{} if place == 0 else {"data": "$response"} for place in range(len(names))]
    return [
        {"name": name, "serviceName": name, **data, "dependency": "Hard"}
        for name, data in zip(names, asked, strict=True)
    ]


def percentages(shares: Sequence[float]) -> list[int]:
    """Shares of 1 as whole percents that are 100 together, the largest remainders rounded up.

    >>> percentages([1 / 3, 1 / 3, 1 / 3])
    [34, 33, 33]
    """
    total = sum(shares)
    exact = [100 * share / total for share in shares]
    whole = [int(value) for value in exact]
    by_rest = sorted(range(len(exact)), key=lambda place: whole[place] - exact[place])
    for place in by_rest[: 100 - sum(whole)]:
        whole[place] += 1
    return whole
