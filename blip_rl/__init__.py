"""blip-rl: continual reinforcement learning on Atari with bit-level information preserving."""

__version__ = "0.1.0"
