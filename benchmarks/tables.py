"""Tables in documents, between markers that name the script which wrote them."""

from __future__ import annotations

from pathlib import Path

END = "<!-- end of table -->"


def write_table(document: Path, script: str, table: str) -> None:
    """Replace what stands between the markers of `script` in a document."""
    begin = f"<!-- table: benchmarks/{script} -->"
    text = document.read_text(encoding="utf-8")
    before, rest = text.split(begin, 1)
    after = rest.split(END, 1)[1]
    document.write_text(f"{before}{begin}\n{table}\n{END}{after}", encoding="utf-8")
