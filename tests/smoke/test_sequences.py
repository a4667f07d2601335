"""Each shipped sequence learns its first two tasks for a short time, and every method learns MinAtar and modes."""

import numpy as np
import pytest
import tomli_w

from blip_rl.recipes import load_run_config, resolve
from blip_rl.recipes.files import read_recipe, recipe_names, recipe_paths
from blip_rl.reporting.scores import load_scores
from blip_rl.run.train import train
from blip_rl.storage.run_folder import RunFolder

SMALL = (
    "ppo.environments=4",
    "ppo.rollout_steps=32",
    "ppo.minibatches=2",
    "ppo.epochs=1",
    "trunk.image.hidden=[16]",
    "evaluation.episodes=1",
    "evaluation.every_steps=2k",
    "evaluation.max_episode_steps=50",
    "evaluation.before_training=false",
)
ATARI = "trunk.image.conv=[[4, 8, 8], [4, 3, 2]]"
SEQUENCES = {path.stem: path for path in recipe_paths("envs")}
QUICK = {"carmack8", "freeway-modes", "minatar5", "cartpole12"}
METHODS = sorted(set(recipe_names("agents")) - {"blip-paper", "blip-reference"})

pytestmark = pytest.mark.usefixtures("_blank_heatmaps")


def first_two(name, folder):
    """Write the sequence with its first two tasks alone."""
    values = read_recipe(SEQUENCES[name])
    values["tasks"] = values["tasks"][:2]
    path = folder / f"{name}.toml"
    path.write_text(tomli_w.dumps(values), encoding="utf-8")
    return str(path)


def short_run(games, agent, out, steps, *overrides):
    config = resolve(games, agent, steps=steps, overrides=(*SMALL, *overrides))
    return train(config, out=out, threads=1, quiet=True)


def samples(agent):
    return ("method.fisher_samples=64",) if agent.startswith(("blip", "ewc")) else ()


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in SEQUENCES]
)
def test_the_first_two_tasks_of_a_sequence_are_learned(name, tmp_path):
    atari = () if name.startswith(("minatar", "cartpole")) else (ATARI,)
    steps = "256" if name in QUICK else "2k"
    run = short_run(first_two(name, tmp_path), "blip", tmp_path / "run", steps, *samples("blip"), *atari)
    config = load_run_config(run)
    assert RunFolder.existing(run).finished(config.stages)
    assert config.stages == 2 * config.cycles
    rows = [row for row in RunFolder.existing(run).read_scores() if row.phase == "after"]
    assert {row.stage for row in rows} == set(config.all_stages)
    assert all(np.isfinite(row.score) for row in rows)


DISTIL = (
    "distil.teacher_states=32",
    "distil.student_states=32",
    "distil.updates=4",
    "distil.minibatch=16",
)


@pytest.mark.parametrize("agent", METHODS)
@pytest.mark.parametrize(
    "games", ["minatar-breakout,minatar-freeway", pytest.param("freeway-0,freeway-3", marks=pytest.mark.slow)]
)
def test_every_agent_learns_small_images_and_modes(games, agent, tmp_path):
    distils = resolve(games, agent).agent.learning == "distil"
    extra = (*(DISTIL if distils else ()), *samples(agent))
    if agent == "clear":
        extra = ("method.capacity_frames=64", "method.batch=8")
    if games.startswith("freeway"):
        extra += (ATARI,)
    run = short_run(games, agent, tmp_path / "run", "256", *extra)
    scores = load_scores(run).after
    assert np.isfinite(scores[-1]).all()
