"""What is emitted for systemd: by systemd itself, and by starting what its units would."""

from __future__ import annotations

import configparser
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("zenoh")
pytest.importorskip("aiohttp")
pytest.importorskip("onnxruntime")

from edgevit.errors import EdgevitError
from edgevit.runtime.emit import EmitOptions, emit
from tests.runtime.conftest import images
from tests.runtime.emit.served import free_ports, infer, started

NAMES = ("w-1", "w-2", "w-3", "coordinator")
PORTS = dict(zip(NAMES, free_ports(4), strict=True))
ADDRESSES = {name: f"127.0.0.1:{port}" for name, port in PORTS.items()}
ANALYZE = shutil.which("systemd-analyze")
analyzed = pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is not installed")


@pytest.fixture(scope="module")
def units(make_plan, emitted):
    """Units by device, of a plan with keys; their program is one that is there."""
    folder = emitted(make_plan("pipeline"), "systemd", addresses=ADDRESSES, program=sys.executable)
    return {path.parent.name: path for path in folder.rglob("*.service")}


def service(path: Path) -> dict[str, str]:
    """Settings of a unit's service, the last of those that occur more than once."""
    parser = configparser.ConfigParser(strict=False, interpolation=None, delimiters="=")
    parser.optionxform = str
    parser.read(path)
    assert [*parser] == ["DEFAULT", "Unit", "Service", "Install"]
    return dict(parser["Service"])


def test_each_device_and_the_coordinator_have_a_unit(units):
    assert sorted(units) == sorted(NAMES)
    for name, path in units.items():
        found = service(path)
        assert (found["DynamicUser"], found["ProtectSystem"], found["Restart"]) == (
            "yes",
            "strict",
            "on-failure",
        )
        words = shlex.split(found["ExecStart"])
        assert words[0] == sys.executable
        assert f"{ADDRESSES[name]}" in words
        assert words[words.index("--tls") + 1] == "%d"
        text = path.read_text()
        for key in ("authority.pem", "certificate.pem", "private.pem"):
            assert f"LoadCredential={key}:/etc/edgevit/keys/{key}\n" in text


def analyze(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([ANALYZE, *words], check=False, capture_output=True, text=True)


@analyzed
def test_systemd_finds_nothing_wrong(units, tmp_path):
    for name, path in units.items():
        # Units of one name cannot be looked at together.
        copy = tmp_path / f"{name}.service"
        shutil.copyfile(path, copy)
        result = analyze("verify", "--man=no", "--recursive-errors=no", str(copy))
        assert (result.returncode, result.stderr) == (0, "")
        copy.write_text(copy.read_text().replace("DynamicUser", "DynamikUser"))
        result = analyze("verify", "--man=no", str(copy))
        assert "DynamikUser" in result.stderr


@analyzed
def test_systemd_calls_units_well_protected(units):
    for path in units.values():
        result = analyze("security", "--offline=true", "--no-pager", str(path))
        exposure = re.search(r"exposure level for \S+: ([\d.]+)", result.stdout)
        if exposure is None:
            pytest.skip(
                f"this systemd does not look at units that are not loaded: {result.stderr.strip()[:80]}"
            )
        # Of 10, where 9.6 is a service without any protection.
        assert float(exposure[1]) < 3


@pytest.mark.slow
def test_what_the_units_start_answers(make_plan, emitted, tiny_program, tmp_path):
    (http,) = free_ports(1)
    options = {"addresses": ADDRESSES, "insecure": True, "http": http}
    folder = emitted(make_plan("pipeline"), "systemd", **options)

    def words(name: str) -> list[str]:
        path = next((folder / name).glob("*.service"))
        line = service(path)["ExecStart"].replace("/etc/edgevit/plan", str(folder / "coordinator" / "plan"))
        return shlex.split(line.replace("%C", str(tmp_path / name)))[1:]

    with started([words(name) for name in NAMES[:3]], words("coordinator")):
        for image in images(3):
            np.testing.assert_allclose(infer(http, "tiny", image), tiny_program.run(image)[0], atol=1e-5)


@pytest.mark.parametrize(
    ("addresses", "sentence"),
    [
        (ADDRESSES | {"w-9": "127.0.0.1:1"}, "--address w-9=127.0.0.1:1: did you mean"),
        ({"w-1": "127.0.0.1:1"}, "--address: that of w-2 is missing; give w-2=HOST:PORT"),
        (ADDRESSES | {"w-1": "nowhere"}, "nowhere: write HOST:PORT"),
        (ADDRESSES | {"w-1": "a b:1"}, "--address 'a b:1': use letters"),
    ],
)
def test_addresses_that_are_wrong_are_refused_before_anything_is_made(
    make_plan, tmp_path, addresses, sentence
):
    with pytest.raises(EdgevitError, match=re.escape(sentence)):
        emit(make_plan("pipeline"), "systemd", tmp_path / "out", EmitOptions(addresses=addresses))
    assert not (tmp_path / "out").exists()
