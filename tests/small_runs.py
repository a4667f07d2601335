"""Recipes of runs that take seconds."""

from blip_rl.config import RunConfig
from blip_rl.recipes import resolve

SMALL = (
    "ppo.environments=4",
    "ppo.rollout_steps=32",
    "ppo.minibatches=4",
    "trunk.vector.hidden=[16, 16]",
    "normalize_rewards=false",  # tests of normalisation switch it on
    "evaluation.episodes=3",
    "evaluation.every_steps=512",
)


def small_config(agent: str = "blip", games: str = "cartpole-a,cartpole-b", **options) -> RunConfig:
    extra = options.pop("overrides", ())
    samples = ("method.fisher_samples=64",) if agent.startswith(("blip", "ewc")) else ()
    return resolve(games, agent, steps=options.pop("steps", "1024"), overrides=(*SMALL, *samples, *extra), **options)
