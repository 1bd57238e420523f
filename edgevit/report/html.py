"""The report as one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Mapping

from edgevit.report.document import Report


def render(report: Report, thumbnails: Mapping[str, str]) -> str:
    """PLACEHOLDER until the template lands."""
    return f"<html>{report.model.name} {len(thumbnails)}</html>"
