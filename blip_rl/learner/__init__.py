"""PPO over one shared trunk with a head per task: the room that knows stable-baselines3's insides."""
