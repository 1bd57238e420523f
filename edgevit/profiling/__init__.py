"""What an artefact costs on a device: time and memory, measured."""

from edgevit.profiling.addresses import Remote
from edgevit.profiling.latency import LatencyProfile, UnfinishedProfileError
from edgevit.profiling.measuring import profile

__all__ = ["LatencyProfile", "Remote", "UnfinishedProfileError", "profile"]
