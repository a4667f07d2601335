"""Exchange with stable-baselines3: export, import, and protecting its agents."""
