"""The ten models of the field that the benchmarks measure, at their native sizes."""

from __future__ import annotations

MODELS = (
    "deit_tiny_patch16_224",
    "mobilevit_xxs",
    "mobilevitv2_050",
    "efficientformer_l1",
    "efficientformerv2_s0",
    "levit_128s",
    "edgenext_xx_small",
    "fastvit_t8",
    "tiny_vit_5m_224",
    "swin_tiny_patch4_window7_224",
)
