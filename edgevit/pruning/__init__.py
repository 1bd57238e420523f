"""Smaller networks: which of a layer's units stay, and how the others are made up for."""
