"""PPO with one shared trunk and a head per task. Subclasses and replaces internals of stable-baselines3."""
