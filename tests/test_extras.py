"""Optional libraries are optional: without any of them everything else works."""

from __future__ import annotations

import subprocess
import sys

from edgevit import extras

WITHOUT = f"""
import importlib, pkgutil, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {sorted({name for names in extras.EXTRAS.values() for name in names})}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
import edgevit.cli
for found in pkgutil.iter_modules(edgevit.cli.__path__, "edgevit.cli."):
    importlib.import_module(found.name)
import edgevit.compression, edgevit.deployment, edgevit.export, edgevit.profiling, edgevit.quant.quantizing
"""


def test_everything_that_a_command_imports_is_there_without_any_extra():
    found = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
