"""Exact rewrites of a Program's graph: one a file, each a function `Program -> Program`."""
