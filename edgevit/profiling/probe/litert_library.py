"""LiteRT's C library: its profiler times single operators, and its Python packages do not reach it.

Declared as in litert/c of LiteRT 2.1.6 to 2.3; structures are those that the headers call stable.
"""

from __future__ import annotations

import ctypes
import importlib.util
from pathlib import Path
from typing import Any

# The oldest release with these declarations.
OLDEST = (2, 1, 6)

_CPU = 1
# Only the processor's part of the runtime is loaded.
_TAG_ACCELERATORS, _INTEGER = 24, 2
_WRITE = 1

# Of inputs, by the library's number of their type.
_TYPES = {1: "float32", 2: "int32", 3: "uint8", 4: "int64", 7: "int16", 9: "int8", 10: "float16"}

# An operator that the interpreter ran, and one that a delegate ran and timed itself.
_OPERATOR, _OF_DELEGATE = 2, 8

XNNPACK, BUILT_IN = "XNNPACK", "built-in kernels"


class _Option(ctypes.Structure):
    """LiteRtEnvOption with an integer."""

    _fields_ = (("tag", ctypes.c_int), ("type", ctypes.c_int), ("value", ctypes.c_int64))


class _TensorType(ctypes.Structure):
    """LiteRtRankedTensorType; the lowest seven bits of `rank` are the rank."""

    _fields_ = (
        ("element", ctypes.c_int),
        ("rank", ctypes.c_uint32),
        ("sizes", ctypes.c_int32 * 8),
        ("strides", ctypes.c_uint32 * 8),
    )


class _Event(ctypes.Structure):
    """ProfiledEventData; the memory is not looked at."""

    _fields_ = (
        ("tag", ctypes.c_char_p),
        ("kind", ctypes.c_int),
        ("start_us", ctypes.c_uint64),
        ("elapsed_us", ctypes.c_uint64),
        ("memory", ctypes.c_size_t * 6),
        ("place", ctypes.c_uint64),
        ("more", ctypes.c_uint64),
        ("source", ctypes.c_int),
    )


class LibraryError(Exception):
    """The library refused something."""


class ProfiledModel:
    """A file on fixed noise, in LiteRT's runtime, with its profiler.

    Args:
        path: the file.
        threads: of the runtime.
        xnnpack: whether the XNNPACK delegate takes what it can; otherwise the built-in kernels run all.
        noise: fixed values of a shape and a type.
    """

    def __init__(self, path: str, threads: int, xnnpack: bool, noise: Any) -> None:
        self._library = ctypes.CDLL(str(_library()))
        # What the library points to for as long as it runs.
        self._kept: list[Any] = []
        option = _Option(_TAG_ACCELERATORS, _INTEGER, _CPU)
        self._environment = self._made("LiteRtCreateEnvironment", 1, ctypes.byref(option))
        model = self._made("LiteRtCreateModelFromFile", self._environment, path.encode())
        self._compiled = self._made(
            "LiteRtCreateCompiledModel", self._environment, model, self._options(threads, xnnpack)
        )
        self._profiler = self._made("LiteRtCompiledModelGetProfiler", self._compiled)
        signature = self._made("LiteRtGetModelSignature", model, ctypes.c_size_t(0))
        self._ends = [self._buffers(signature, side) for side in ("Input", "Output")]
        for buffer, (shape, element) in self._ends[0]:
            if element not in _TYPES:
                raise LibraryError(f"an input has LiteRT's type {element}, which is not timed by operators")
            self._fill(buffer, noise(shape, _TYPES[element]))
        self._arguments = [argument for end in self._ends for argument in _array(end)]

    def run(self) -> None:
        """Run it once."""
        self._call("LiteRtRunCompiledModel", self._compiled, ctypes.c_size_t(0), *self._arguments)

    def profiled(self) -> tuple[list[tuple[str, str, str]], list[float]]:
        """Run it once with the profiler.

        Returns:
            Of each operator in the order they ran its place, its kind and what ran it: the place is counted
            among the file's operators, or among those that the delegate made of them. And microseconds of
            each, cut to whole ones.
        """
        self._call("LiteRtStartProfiler", self._profiler)
        self.run()
        self._call("LiteRtStopProfiler", self._profiler)
        count = ctypes.c_int()
        self._call("LiteRtGetNumProfilerEvents", self._profiler, ctypes.byref(count))
        events = (_Event * count.value)()
        self._call("LiteRtGetProfilerEvents", self._profiler, count, events)
        units = {_OPERATOR: BUILT_IN, _OF_DELEGATE: XNNPACK}
        ran = [event for event in events if event.kind in units]
        rows = [(str(event.place), event.tag.decode(), units[event.kind]) for event in ran]
        return rows, [float(event.elapsed_us) for event in ran]

    def _call(self, name: str, *arguments: Any) -> None:
        function = getattr(self._library, name)
        function.restype = ctypes.c_int
        status = function(*arguments)
        if status != 0:
            raise LibraryError(f"LiteRT's {name} gave status {status}")

    def _made(self, name: str, *arguments: Any) -> ctypes.c_void_p:
        """What a function gives by its last argument."""
        made = ctypes.c_void_p()
        self._call(name, *arguments, ctypes.byref(made))
        return made

    def _options(self, threads: int, xnnpack: bool) -> ctypes.c_void_p:
        options = self._made("LiteRtCreateOptions")
        self._call("LiteRtSetOptionsHardwareAccelerators", options, _CPU)
        # The delegate is what it uses unless it is told otherwise; older releases call it otherwise.
        kernels = "" if xnnpack else 'kernel_mode = "builtin"\n'
        # Each has a name and some lines of TOML.
        for name, lines in (
            ("runtime_options_string", "enable_profiling = true\n"),
            ("xnnpack", f"num_threads = {threads}\n{kernels}"),
        ):
            text = ctypes.create_string_buffer(lines.encode())
            release = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda _: None)
            self._kept += [text, release]
            given = self._made(
                "LiteRtCreateOpaqueOptions", name.encode(), ctypes.cast(text, ctypes.c_void_p), release
            )
            self._call("LiteRtAddOpaqueOptions", options, given)
        return options

    def _buffers(self, signature: ctypes.c_void_p, side: str) -> list[tuple[ctypes.c_void_p, Any]]:
        """A buffer for each input or output, with its shape and the number of its type."""
        count = ctypes.c_size_t()
        self._call(f"LiteRtGetNumSignature{side}s", signature, ctypes.byref(count))
        found = []
        for place in map(ctypes.c_size_t, range(count.value)):
            tensor = self._made(f"LiteRtGetSignature{side}TensorByIndex", signature, place)
            kind = _TensorType()
            self._call("LiteRtGetRankedTensorType", tensor, ctypes.byref(kind))
            needs = self._made(
                f"LiteRtGetCompiledModel{side}BufferRequirements",
                self._compiled,
                ctypes.c_size_t(0),
                place,
            )
            buffer = self._made(
                "LiteRtCreateManagedTensorBufferFromRequirements",
                self._environment,
                ctypes.byref(kind),
                needs,
            )
            found.append((buffer, (list(kind.sizes[: kind.rank & 0x7F]), kind.element)))
        return found

    def _fill(self, buffer: ctypes.c_void_p, values: Any) -> None:
        address = ctypes.c_void_p()
        self._call("LiteRtLockTensorBuffer", buffer, ctypes.byref(address), _WRITE)
        ctypes.memmove(address, values.ctypes.data, values.nbytes)
        self._call("LiteRtUnlockTensorBuffer", buffer)


def _array(end: list[tuple[ctypes.c_void_p, Any]]) -> list[Any]:
    """Buffers as the library takes them: how many, and where."""
    return [ctypes.c_size_t(len(end)), (ctypes.c_void_p * len(end))(*[buffer.value for buffer, _ in end])]


def _library() -> Path:
    found = importlib.util.find_spec("ai_edge_litert")
    folders = [] if found is None else list(found.submodule_search_locations or ())
    for folder in folders:
        for path in sorted(Path(folder).glob("libLiteRt.*")):
            return path
    raise LibraryError("this build of LiteRT comes without its C library")
