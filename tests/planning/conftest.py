"""PipeEdge's files, small."""

from __future__ import annotations

import pytest

MODELS = """\
net:
  layers: 3
  mem_MB: [1, 2, 3]
  parameters_in: 100
  parameters_out: [1000, 2000, 10]
"""
TYPES = """\
fast:
  bw_Mbps: 8
  mem_MB: 8
  model_profiles:
    net:
    - {batch_size: 8, dtype: torch.float32, time_s: [1.0, 1.0, 1.0]}
slow:
  bw_Mbps: 4
  mem_MB: 4
  model_profiles:
    net:
    - {batch_size: 8, dtype: torch.float32, time_s: [2.0, 2.0, 2.0]}
"""
DEVICES = "fast: [a]\nslow: [b, c]\n"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "models.yml").write_text(MODELS)
    (tmp_path / "device_types.yml").write_text(TYPES)
    (tmp_path / "devices.yml").write_text(DEVICES)
    return tmp_path
