"""Algorithms as pure functions on tensors and arrays; depends on torch and NumPy only."""
