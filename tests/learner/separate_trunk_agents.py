"""Small agents that learn a second task apart, under any method."""

import tomllib

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.callbacks import CallbackList

from blip_rl.agent_config import DistilConfig
from blip_rl.learner.distil import distil
from blip_rl.learner.separate_trunk import LearnApart
from blip_rl.methods import load_method, make_method, method_names
from blip_rl.recipes.files import recipe_folder
from tests.learner.small_agents import ENVIRONMENTS, ROLLOUT, Lines, Pixels, agent, cartpole, vectorised

SECOND_TASK = {
    "vectors": lambda: cartpole(mix=2),
    "frames": lambda: vectorised(lambda: Pixels((2, 36, 36), actions=5)),
    "box actions": lambda: vectorised(lambda: Lines(spaces.Box(-0.5, 2, (3,), np.float32))),
}
METHODS = [name for name in method_names() if load_method(name).distillable]
SMALL = {
    "blip": {"fisher_samples": 32, "fisher_expectation": "sampled"},
    "ewc": {"fisher_samples": 32},
    "ewc_online": {"fisher_samples": 32},
    "gpm": {"samples": 32},
    "sgp": {"samples": 32},
    "clear": {"capacity_frames": 64, "batch": 8},
    "packnet": {"tasks": 3},
}
FEW = DistilConfig(teacher_states=16, student_states=16, updates=12, minibatch=8)
DISTIL = DistilConfig(teacher_states=64, student_states=64, updates=120, minibatch=32)


def inner_method(name, **settings):
    """The method of the shipped recipe, with few samples."""
    path = recipe_folder("agents") / f"{name.replace('_', '-')}.toml"
    section = tomllib.loads(path.read_text(encoding="utf-8"))["method"]
    return make_method(section | SMALL.get(name, {}) | settings)


def consolidate(model, method, seed=0):
    return method.end_task(model.finished_task(method.samples_wanted, torch.Generator().manual_seed(seed)))


def one_task(kind="vectors", name="finetune", start="fresh", **options):
    """An agent that has learned its first task directly and consolidated it, before its second; and its method."""
    model = agent(env=ENVIRONMENTS[kind](), **options)
    method = LearnApart(inner_method(name), start, first_task=False)
    with model.protected_by(method):
        model.learn_task(2 * ROLLOUT, CallbackList([]))
    consolidate(model, method)
    model.switch_task("b", SECOND_TASK[kind]())
    model.restart_games(1)  # so that it can be played right away
    return model, method


def learn_apart(model, method, rollouts=3):
    with model.protected_by(method):
        model.learn_task(rollouts * ROLLOUT, CallbackList([]))


def two_tasks(kind="vectors", name="finetune", start="fresh", settings=DISTIL, **options):
    """An agent whose second task has been learned apart and distilled; its method, and how well it was distilled."""
    model, method = one_task(kind, name, start, **options)
    learn_apart(model, method)
    return model, method, distil(model, method, settings)
