"""Small runs that the tests of this room share."""

from pathlib import Path

import numpy as np
import pytest

from blip_rl.config import RunConfig
from blip_rl.recipes import resolve
from blip_rl.report import heatmaps

SMALL = (
    "ppo.environments=4",
    "ppo.rollout_steps=32",
    "ppo.minibatches=4",
    "trunk.vector.hidden=[16, 16]",
    "evaluation.episodes=3",
    "evaluation.every_steps=512",
)


def small_config(agent: str = "blip", games: str = "cartpole-a,cartpole-b", **options) -> RunConfig:
    extra = options.pop("overrides", ())
    samples = ("method.fisher_samples=64",) if agent.startswith(("blip", "ewc")) else ()
    return resolve(games, agent, steps=options.pop("steps", "1024"), overrides=(*SMALL, *samples, *extra), **options)


@pytest.fixture(scope="module")
def _blank_heatmaps():
    """For tests of how a run goes on: drawing heatmaps takes longer than all the rest, and no curve is of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(heatmaps, "frozen_bits_image", lambda *_: np.zeros((1, 1, 3), np.uint8))
        yield


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory) -> Path:
    """A BLIP run over two CartPoles, made once."""
    from blip_rl.run.sequence import train

    return train(small_config(), out=tmp_path_factory.mktemp("runs") / "run", threads=1, quiet=True)
