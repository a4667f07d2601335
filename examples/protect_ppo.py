"""Protect a PPO of stable-baselines3: it learns CartPole, then CartPole with a pole four times as long.

    python examples/protect_ppo.py

Prints the mean return on both tasks after each of them.
"""

import argparse

import gymnasium as gym
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

import blip_rl as br


def long_pole() -> gym.Env:
    env = gym.make("CartPole-v1")
    env.unwrapped.length *= 4
    return env


def main() -> None:
    parser = argparse.ArgumentParser(description="Protect a PPO of stable-baselines3 over two tasks.")
    parser.add_argument("--steps", type=int, default=20_000, help="training steps of each task")
    steps = parser.parse_args().steps

    tasks = {"CartPole": make_vec_env("CartPole-v1", 4, seed=0), "long pole": make_vec_env(long_pole, 4, seed=0)}
    model = PPO("MlpPolicy", tasks["CartPole"], n_steps=128, seed=0, device="cpu")
    blip = br.Blip(first_task_bits=3)
    for learned, env in tasks.items():
        model.set_env(env)
        with br.protect(model, blip):
            model.learn(steps)
        returns = {name: evaluate_policy(model, task, n_eval_episodes=10)[0] for name, task in tasks.items()}
        shown = ", ".join(f"{name} {mean:.0f}" for name, mean in returns.items())
        print(f"after {learned}: {shown}; {blip.mean_frozen_bits():.2f} bits frozen on average")


if __name__ == "__main__":
    main()
