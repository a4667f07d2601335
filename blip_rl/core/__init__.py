"""Algorithms as pure functions on tensors and arrays; depends on torch, NumPy and, for annotations, jaxtyping only."""
