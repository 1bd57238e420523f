"""Reports of what was measured: JSON for programs, one self-contained HTML page for people."""
