"""The probe as one file that any Python runs."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

from edgevit.profiling import probe

NAME = "probe.pyz"

_PACKAGE = "edgevit_probe"
_START = f"import sys\nfrom {_PACKAGE}.main import main\nsys.exit(main())\n"
# The oldest that zip knows: the file is the same whenever it is made.
_MOMENT = (1980, 1, 1, 0, 0, 0)


def packed_probe() -> bytes:
    """A zip file that ``python probe.pyz`` runs, of the probe's modules and nothing else."""
    folder = Path(probe.__file__).parent
    sources = {f"{_PACKAGE}/{path.name}": path.read_bytes() for path in sorted(folder.glob("*.py"))}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in {"__main__.py": _START.encode(), **sources}.items():
            archive.writestr(zipfile.ZipInfo(name, _MOMENT), content)
    return buffer.getvalue()
