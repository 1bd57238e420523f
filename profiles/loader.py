"""Device profiles found by name, alias or path, and refused with the line of what is wrong."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from pathlib import Path

from edgevit.errors import EdgevitError, closest
from edgevit.profiles.documents import Document, read_document, shown
from edgevit.profiles.schema import PROFILE_VERSION, DeviceProfile, canonical

_FOLDER = Path(__file__).parent

_DOCUMENT = Document(noun="device profile", version=PROFILE_VERSION, example="name: pixel-8", depth=7)


def load_profile(name_or_path: str | Path) -> DeviceProfile:
    """The profile of a device that edgevit knows, or of the user's own file.

    Args:
        name_or_path: a name or alias, in any case and with any separators ("Pixel 8", "pixel_8"); or
            a file, recognised by a folder in it or by ending in .yaml or .yml.

    Raises:
        EdgevitError: when no device has this name, or the file is not a valid profile.
    """
    path = Path(name_or_path)
    if isinstance(name_or_path, Path) or path.suffix in {".yaml", ".yml"} or path.name != name_or_path:
        return _read_profile(path)
    wanted = canonical(name_or_path)
    # A full name is found without reading every other device's file.
    for name in device_names():
        if canonical(name) == wanted:
            return _shipped(name)
    by_name = index(devices())
    if wanted not in by_name:
        known = {name for profile in devices() for name in (profile.name, *profile.aliases)}
        raise EdgevitError(
            f"unknown device {shown(name_or_path)} (`edgevit devices` lists them); "
            f"{closest(name_or_path.lower(), known)}"
        )
    return by_name[wanted]


def device_names() -> tuple[str, ...]:
    """Names of the devices that edgevit knows, sorted; their files are not read."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.yaml")))


def devices() -> tuple[DeviceProfile, ...]:
    """Every device that edgevit knows, sorted by name."""
    return tuple(_shipped(name) for name in device_names())


def index(profiles: Iterable[DeviceProfile]) -> dict[str, DeviceProfile]:
    """Profiles by the canonical form of their names and aliases.

    Raises:
        EdgevitError: when two devices share one.
    """
    found: dict[str, DeviceProfile] = {}
    for profile in profiles:
        for name in (profile.name, *profile.aliases):
            other = found.setdefault(canonical(name), profile)
            if other is not profile:
                raise EdgevitError(f'"{name}" names both {other.name} and {profile.name}; rename one of them')
    return found


@functools.cache
def _shipped(name: str) -> DeviceProfile:
    return _read_profile(_FOLDER / f"{name}.yaml")


def _read_profile(path: Path) -> DeviceProfile:
    return read_document(path, DeviceProfile, _DOCUMENT)
