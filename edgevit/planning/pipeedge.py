"""What PipeEdge's scheduler reads: `models.yml`, `device_types.yml` and `devices.yml`.

PipeEdge (Hu et al., DSD 2022, doi 10.1109/DSD57027.2022.00048): a stage takes the longest of computing
and sending to the next, a line is as fast as its slower end, the input and the answer cost nothing. Its
scheduler, `src-native/schedule.cpp`, is the reference for units and for the memory of a stage.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, RootModel

from edgevit.errors import EdgevitError, closest
from edgevit.planning.problem import Chain, Cut, Host, Problem, Segment, Wire, check_names
from edgevit.profiles.documents import Document, Located, read_located

#: Images that travel together where nothing else is said, as in its scheduler.
BATCH = 8

_DTYPE = "torch.float32"
_FLOAT_BYTES = 4
_MEBI = 2**20
# What is received and sent is held once in use, and twice in buffers, as its scheduler counts by default.
_HELD = 3

Amount = Annotated[float, Field(ge=0, strict=True, allow_inf_nan=False)]
Whole = Annotated[int, Field(ge=0, strict=True)]


class _Entry(BaseModel):
    # Its own tools write more keys than are needed here.
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False, protected_namespaces=())


class _Model(_Entry):
    layers: Annotated[int, Field(gt=0, strict=True)]
    parameters_in: Whole
    parameters_out: Annotated[tuple[Whole, ...], Field(min_length=1)]
    mem_MB: Annotated[tuple[Amount, ...], Field(min_length=1)]  # noqa: N815 - its name in the file


class _Profile(_Entry):
    dtype: str
    batch_size: Annotated[int, Field(gt=0, strict=True)]
    time_s: tuple[Amount, ...]


class _Type(_Entry):
    bw_Mbps: Annotated[float, Field(gt=0, strict=True)]  # noqa: N815 - its name in the file
    mem_MB: Amount  # noqa: N815 - its name in the file
    model_profiles: dict[str, tuple[_Profile, ...]]


class _Models(RootModel[dict[str, _Model]]):
    pass


class _Types(RootModel[dict[str, _Type]]):
    pass


class _Devices(RootModel[dict[str, Annotated[tuple[str, ...], Field(min_length=1)]]]):
    pass


_MODELS = Document(noun="file of PipeEdge's models", version=None, example="google/vit-base:", depth=3)
_TYPES = Document(noun="file of PipeEdge's device types", version=None, example="board:", depth=6)
_DEVICES = Document(noun="file of PipeEdge's devices", version=None, example="board: [host-1]", depth=2)


def read_pipeedge(folder: str | Path, model: str | None = None, batch: int = BATCH) -> Problem:
    """The problem that PipeEdge's files describe; an item is a batch of images.

    Args:
        folder: with `models.yml`, `device_types.yml` and `devices.yml`.
        model: its name in the files; it may be left out where there is only one.
        batch: images that travel together; each type of device needs times of that.

    Raises:
        EdgevitError: naming the file, the line and the key of what is wrong.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise EdgevitError(
            f"{folder} is no folder; give one with models.yml, device_types.yml and devices.yml"
        )
    models = read_located(folder / "models.yml", _Models, _MODELS)
    types = read_located(folder / "device_types.yml", _Types, _TYPES)
    devices = read_located(folder / "devices.yml", _Devices, _DEVICES)
    name = _model_name(models, model)
    chain = _chain(models, name, batch)
    hosts = []
    for type_name, names in devices.value.root.items():
        if type_name not in types.value.root:
            known = closest(type_name, types.value.root)
            raise devices.error((type_name,), f"no such device type in {types.path}; {known}")
        seconds = _seconds(types, type_name, name, batch, len(chain.segments))
        hosts += [_host(types.value.root[type_name], host, seconds) for host in names]
    check_names([host.name for host in hosts], f"{devices.path}: device")
    return Problem(chain, tuple(hosts))


def _model_name(models: Located[_Models], model: str | None) -> str:
    names = list(models.value.root)
    if model is None and len(names) > 1:
        raise EdgevitError(f"{models.path} has {len(names)} models; choose one: {', '.join(names)}")
    if model is not None and model not in names:
        raise EdgevitError(f"{models.path} has no model {model!r}; {closest(model, names)}")
    return model or names[0]


def _chain(models: Located[_Models], name: str, batch: int) -> Chain:
    model = models.value.root[name]
    for key, values in (("mem_MB", model.mem_MB), ("parameters_out", model.parameters_out)):
        if len(values) != model.layers:
            raise models.error((name, key), f"has {len(values)} values for {model.layers} layers")
    sizes = [_FLOAT_BYTES * count * batch for count in (model.parameters_in, *model.parameters_out)]
    cuts = [
        Cut(
            name=f"behind layer {place}" if place else "input",
            wires=(Wire("fp32", size),),
            # What is asked is there already: nothing is received for it.
            entering_bytes=size * (_HELD if place else 1),
            leaving_bytes=size * _HELD,
        )
        for place, size in enumerate(sizes)
    ]
    segments = [Segment(f"layer {place}", size * _MEBI) for place, size in enumerate(model.mem_MB, start=1)]
    return Chain(tuple(segments), tuple(cuts))


def _seconds(
    types: Located[_Types], type_name: str, model: str, batch: int, layers: int
) -> tuple[float, ...]:
    profiles = types.value.root[type_name].model_profiles
    place = (type_name, "model_profiles")
    if model not in profiles:
        raise types.error(place, f"no times of {model}; {closest(model, profiles)}")
    fitting = [p for p in profiles[model] if (p.dtype, p.batch_size) == (_DTYPE, batch)]
    if not fitting:
        there = ", ".join(f"{profile.batch_size} ({profile.dtype})" for profile in profiles[model])
        raise types.error(
            (*place, model), f"no times of batches of {batch} in {_DTYPE}; there are times of {there}"
        )
    seconds = fitting[-1].time_s
    if len(seconds) != layers:
        raise types.error((*place, model), f"time_s has {len(seconds)} values for {layers} layers")
    return seconds


def _host(of: _Type, name: str, seconds: tuple[float, ...]) -> Host:
    return Host(
        name=name,
        seconds=seconds,
        # A stage must need less than there is, not as much.
        memory_bytes=math.nextafter(of.mem_MB * _MEBI, 0.0),
        bandwidth=of.bw_Mbps * _MEBI / 8,
    )
