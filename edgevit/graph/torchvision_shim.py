"""Make torchvision importable beside a torch that its binary was not built for.

timm and transformers import torchvision for its Python parts only. Its wheels on the package index are
built against CUDA builds of torch; beside a CPU-only torch the compiled library does not load, and the
import then fails because it describes operators (``torchvision::nms`` ...) that the library would have
declared. Declaring those operators first is enough. They stay without a kernel: calling one is an error.
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import torch

# The declarations live as long as the Library object does.
_library: torch.library.Library | None = None


def make_torchvision_importable() -> None:
    """Declare the operators torchvision describes at import, where its compiled library does not load.

    Does nothing where torchvision is absent, already imported, or loads its library.
    """
    global _library  # noqa: PLW0603 - see above: one declaration per process
    spec = importlib.util.find_spec("torchvision")
    if _library is not None or spec is None or spec.origin is None or _binary_loads(Path(spec.origin).parent):
        return
    source = Path(spec.origin).with_name("_meta_registrations.py").read_text(encoding="utf-8")
    _library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for name in re.findall(r"""register_fake\(["']torchvision::(\w+)["']\)""", source):
        if not hasattr(torch.ops.torchvision, name):
            # The schema is never used: nothing in the field's classifiers calls these operators.
            _library.define(f"{name}() -> ()")  # type: ignore[no-untyped-call]


def _binary_loads(package: Path) -> bool:
    for binary in (*package.glob("_C.so"), *package.glob("_C.pyd")):
        try:
            torch.ops.load_library(binary)  # type: ignore[no-untyped-call]
        except OSError:
            return False
        return True
    return False
