"""Device profiles: what is known about a device before anything runs on it, and who says so.

One YAML file per device, read by `load_profile` by name, alias or path. Nothing in them was
measured by edgevit unless its source says so: ask `DeviceProfile.is_estimate`.
"""

from __future__ import annotations

from edgevit.profiles.loader import device_names, devices, load_profile
from edgevit.profiles.schema import Backend, DeviceProfile

__all__ = ["Backend", "DeviceProfile", "device_names", "devices", "load_profile"]
