"""Where operators run: which backend of a runtime takes which operators of a file, and why not the others."""

from edgevit.export.placement.analysis import BackendPlacement, Fallback, Placement, placement
from edgevit.export.placement.operators import KindCount

__all__ = ["BackendPlacement", "Fallback", "KindCount", "Placement", "placement"]
