"""Keys for devices: an authority of one's own, and a certificate for each device, made by OpenSSL."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from edgevit.errors import EdgevitError, MissingDependencyError
from edgevit.files import check_output, staged_folder
from edgevit.runtime.messages import check_name
from edgevit.runtime.transport import AUTHORITY, CERTIFICATE, PRIVATE

#: The authority's own private key: it stays where it was made.
AUTHORITY_PRIVATE = "authority-private.pem"

_CURVE = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
_AUTHORITY_DAYS, _DEVICE_DAYS = 3650, 825


def make_authority(folder: Path, *, force: bool = False) -> None:
    """Write an authority's certificate and private key.

    Args:
        folder: to write into.
        force: replace one that is there; what it signed is worth nothing any more.

    Raises:
        EdgevitError: when the folder has one already, or cannot be written.
        MissingDependencyError: without OpenSSL.
    """
    names = (AUTHORITY, AUTHORITY_PRIVATE)
    check_output(folder, names=names, force=force)
    with staged_folder(folder) as stage:
        _openssl(
            "req", "-x509", *_CURVE, "-days", str(_AUTHORITY_DAYS), "-subj", "/CN=edgevit authority",
            "-addext", "keyUsage=critical,keyCertSign,cRLSign",
            "-keyout", str(stage / AUTHORITY_PRIVATE), "-out", str(stage / AUTHORITY),
        )  # fmt: skip
        (stage / AUTHORITY_PRIVATE).chmod(0o600)


def make_device(name: str, authority: Path, folder: Path, *, force: bool = False) -> None:
    """Write what a device needs: the authority's certificate, its own, and its private key.

    Args:
        name: of the device, as in plans; "coordinator" for the one that runs them.
        authority: folder of `make_authority`.
        folder: to write into, and to be brought to the device.
        force: replace keys that are there.

    Raises:
        EdgevitError: when the name cannot be one, the authority is not there, or the folder has keys.
        MissingDependencyError: without OpenSSL.
    """
    check_name(name, "device")
    for file in (AUTHORITY, AUTHORITY_PRIVATE):
        if not (authority / file).is_file():
            raise EdgevitError(f"{authority} has no {file}; `edgevit keys init {authority}` makes it")
    check_output(folder, names=(AUTHORITY, CERTIFICATE, PRIVATE), force=force)
    with staged_folder(folder) as stage:
        request, extensions = stage / "request.pem", stage / "extensions"
        extensions.write_text(
            f"basicConstraints=CA:FALSE\nextendedKeyUsage=serverAuth,clientAuth\nsubjectAltName=DNS:{name}\n"
        )
        _openssl(
            "req", *_CURVE, "-subj", f"/CN={name}", "-keyout", str(stage / PRIVATE), "-out", str(request)
        )
        _openssl(
            "x509", "-req", "-in", str(request), "-days", str(_DEVICE_DAYS), "-extfile", str(extensions),
            "-CA", str(authority / AUTHORITY), "-CAkey", str(authority / AUTHORITY_PRIVATE),
            "-CAserial", str(stage / "serial"), "-CAcreateserial", "-out", str(stage / CERTIFICATE),
        )  # fmt: skip
        for path in (request, extensions, stage / "serial"):
            path.unlink()
        shutil.copy(authority / AUTHORITY, stage / AUTHORITY)
        (stage / PRIVATE).chmod(0o600)


def _openssl(*words: str) -> None:
    program = shutil.which("openssl")
    if program is None:
        raise MissingDependencyError("keys are made by OpenSSL: install the program `openssl`")
    result = subprocess.run([program, *words], capture_output=True, text=True, check=False)  # noqa: S603
    if result.returncode:
        lines = result.stderr.strip().splitlines() or ["no reason given"]
        raise EdgevitError(f"openssl {words[0]} failed: {lines[-1]}")
