"""Interoperability with stable-baselines3: export and import of agents, and ``protect`` for its models."""
