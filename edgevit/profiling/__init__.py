"""What an artefact costs on a device: time and memory, measured."""

from edgevit.profiling.latency import LatencyProfile
from edgevit.profiling.local import profile

__all__ = ["LatencyProfile", "profile"]
