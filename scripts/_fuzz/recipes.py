"""Target: recipes and ``--set``: resolved, dumped and parsed again, and checked against the memory of the machine."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
from gymnasium import spaces

from _fuzz import change
from _fuzz.runs import METHODS, TINY
from blip_rl.methods import make_method
from blip_rl.recipes import dump_run_config, load_run_config, parse_run_config, resolve
from blip_rl.recipes.files import recipe_folder
from blip_rl.run.resources import check_training

_VECTORS = spaces.Box(-1.0, 1.0, (4,), np.float32)
_KEYS = (
    "ppo.learning_rate", "ppo.environments", "ppo.rollout_steps", "ppo.minibatches", "ppo.clip_range_value",
    "trunk.vector.hidden", "trunk.image.conv", "trunk.task_modulation", "method.name", "method.first_task_bits",
    "method.first_task_drift",
    "method.total_bits", "atari.frame_skip", "evaluation.episodes", "evaluation.seed", "checkpoint.every_steps",
    "ppo", "method", "agent", "steps", "nope.nope", "",
)  # fmt: skip
_WRAPPED = b"""
[[tasks]]
name = "wrapped"
game = "CartPole-v1"
wrappers = [
    "gymnasium.wrappers:FlattenObservation",
    { wrapper = "gymnasium.wrappers:FrameStackObservation", stack_size = 2, padding_type = "zero" },
    { wrapper = "gymnasium.wrappers:ReshapeObservation", shape = [8] },
]
"""


class Recipes:
    """Mutated agent files, sequence files, ``config.toml`` files and settings."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._agents = [p.read_bytes() for p in sorted(recipe_folder("agents").glob("*.toml"))]
        sequence = (recipe_folder("envs") / "cartpole4.toml").read_bytes()
        self._sequences = [sequence, sequence + _WRAPPED]
        self._configs = [
            dump_run_config(resolve("cartpole-a,cartpole-b", agent, overrides=(*TINY, *METHODS[agent]))).encode()
            for agent in METHODS
        ]

    def attempt(self, draw: random.Random) -> None:
        """Resolve one recipe, as a command does."""
        kind = draw.randrange(4)
        if kind == 0:
            path = self._folder / "config.toml"
            path.write_bytes(change.toml(draw, draw.choice(self._configs)))
            config = load_run_config(path)
        elif kind == 1:
            config = resolve(self._file("mine", change.toml(draw, draw.choice(self._sequences))), "finetune")
        elif kind == 2:
            config = resolve("cartpole-a", self._file("agent", change.toml(draw, draw.choice(self._agents))))
        else:
            agent = draw.choice(sorted(METHODS))
            config = resolve("cartpole-a", agent, overrides=[_setting(draw) for _ in range(draw.choice((1, 1, 2, 5)))])
        assert parse_run_config(dump_run_config(config), "again") == config, (
            "the dumped recipe is parsed as a different one"
        )
        method = make_method(config.agent.method)
        check_training(config, method, _VECTORS, [(task.name, spaces.Discrete(2)) for task in config.tasks])

    def _file(self, name: str, content: bytes) -> str:
        path = self._folder / f"{name}.toml"
        path.write_bytes(content)
        return str(path)


def _setting(draw: random.Random) -> str:
    value = change.odd_value(draw)
    key = draw.choice(_KEYS) if draw.random() < 0.9 else draw.choice(change.TEXTS)
    text = draw.choice(
        (str(value), repr(value), f"[{value}, {value}]", f"{{a = {value}}}", f"0x{'f' * draw.choice((2, 9_000))}")
    )
    return draw.choice((f"{key}={text}", f"{key}={text}", f"{key} = {text}", f"{key}{text}", f"{key}=none"))
