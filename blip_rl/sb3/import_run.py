"""Import an agent trained by stable-baselines3 as a run with one stage."""

from __future__ import annotations

import itertools
import os
import re
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import torch
from gymnasium import spaces
from torch import Tensor, nn

from blip_rl.config import NormalizationConfig, RunConfig
from blip_rl.errors import UserError
from blip_rl.learner.policy import ContinualPolicy
from blip_rl.learner.separate_trunk import build_method
from blip_rl.sb3.read_zip import ExternalAgent, read_agent
from blip_rl.storage import validation
from blip_rl.storage.atomic import new_folder
from blip_rl.storage.checkpoint import save_stage
from blip_rl.storage.new_folder import take_name
from blip_rl.storage.paths import check_new_folder
from blip_rl.storage.run_folder import RunFolder, planned_folder
from blip_rl.tasks.make import make_evaluation_env

_MAX_ENTRIES_SCANNED = 10_000


def import_agent(file: Path, game: str, *, overrides: Sequence[str] = (), out: Path | None = None) -> Path:
    """Create a finished run from an agent in a stable-baselines3 zip file without running code from the file.

    Args:
        file: A file written by ``PPO.save``, ``A2C.save`` or ``blip-rl export``.
        game: The game that the agent plays, named as for training.
        overrides: ``section.key=value`` settings, for preprocessing that differs from the recipe.
        out: Folder to create; None: a new one below ``runs/``.

    Returns:
        The run folder, with one stage and no scores.

    Raises:
        UserError: the file cannot be read, or its agent does not fit the game. No run folder is left behind.

    Warns:
        UserWarning: ``VecNormalize`` statistics were found next to the file; they are not imported.
    """
    from blip_rl.recipes import dump_run_config

    if out is not None:
        check_new_folder(out)
    _warn_about_normalization_statistics(file)
    agent = read_agent(file)
    config = _config(file, game, agent, overrides)
    policy = _policy(file, config, agent)
    planned = planned_folder(out, config).path

    def write(path: Path) -> None:
        with new_folder(path) as beside:
            folder = RunFolder(beside).create(dump_run_config(config), "cpu", {})
            save_stage(folder.stage_path(1), 1, agent.env_steps, policy, build_method(config.agent))

    return take_name(planned, write, numbered=out is None)


def _warn_about_normalization_statistics(file: Path) -> None:
    """Warn if ``VecNormalize`` statistics next to the file suggest that the agent expects normalised observations."""
    # These folders are used by stable-baselines3's CheckpointCallback and by the RL Zoo.
    for folder in (file.parent, file.with_suffix("")):
        with suppress(OSError), os.scandir(folder) as entries:
            for entry in itertools.islice(entries, _MAX_ENTRIES_SCANNED):
                if entry.name.endswith(".pkl") and "vecnormalize" in entry.name.lower().replace("_", ""):
                    warnings.warn(
                        f"found '{entry.path}': VecNormalize statistics are not imported; an agent trained with them "
                        "plays worse because its observations are not normalised",
                        stacklevel=3,
                    )
                    return


def _config(file: Path, game: str, agent: ExternalAgent, overrides: Sequence[str]) -> RunConfig:
    """Return a recipe with the trunk of the agent's network and the method ``finetune``."""
    from blip_rl.recipes import resolve

    layers = agent.layers
    kind = "image" if layers[0].stride else "vector"
    shape = {
        f"trunk.{kind}.hidden": [len(layer.bias) for layer in layers if not layer.stride],
        f"trunk.{kind}.activation": agent.activation,
        "trunk.task_modulation": "false",
    }
    if kind == "image":
        shape["trunk.image.conv"] = [
            [len(layer.bias), layer.weight.shape[2], layer.stride] for layer in layers if layer.stride
        ]
    found = [f"{key}={value}" for key, value in shape.items()]
    config = resolve(game, "finetune", overrides=[*found, *overrides])
    if len(config.tasks) != 1:
        raise UserError(f"--game {game!r} names {len(config.tasks)} games: expected the one game that '{file}' plays")
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", file.stem)[:40]
    # Whatever the sequence of the game says: the agent takes observations as they are.
    plain = dict.fromkeys(NormalizationConfig.model_fields, False)
    # Not resolve(steps=...): it was trained elsewhere, maybe for less than a rollout of this recipe.
    (task,) = config.tasks
    learned = task.model_copy(update={"steps": max(1, agent.env_steps)})
    return config.model_copy(update={"agent_name": name or "imported", "tasks": (learned,), **plain})


@torch.no_grad()
def _policy(file: Path, config: RunConfig, agent: ExternalAgent) -> ContinualPolicy:
    """Build the policy for the game's spaces and copy the weights of the file into it."""
    (task,) = config.tasks
    env = make_evaluation_env(task, config.atari, 1, 0)
    env.close()
    outline = validation.meta_policy(env.observation_space, [(task.name, env.action_space)], config)
    # Before weights are allocated: the file determines their number.
    _check_fit(file, outline, agent)
    validation.check_fits_memory(f"the network of '{file}'", outline, {})
    policy = ContinualPolicy(env.observation_space, env.action_space, lambda _: 0.0, trunk=config.agent.trunk)
    policy.add_task(task.name, env.action_space)
    policy.use_task(task.name)
    for _, layer, weight, bias in _layer_targets(policy, agent):
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
    if policy.current.log_std is not None:
        policy.current.log_std.copy_(cast(Tensor, agent.log_std))
    return policy


def _layer_targets(policy: ContinualPolicy, agent: ExternalAgent) -> list[tuple[str, Any, Tensor, Tensor]]:
    """Return (name, layer, new weight, new bias) of every layer of the network."""
    trunk, head = policy.trunk, policy.current
    found: list[tuple[str, Any, Tensor, Tensor]] = [
        (f"layer {number}", trunk.get_submodule(name), layer.weight, layer.bias)
        for number, (name, layer) in enumerate(zip(trunk.layer_names, agent.layers, strict=True), start=1)
    ]
    return [*found, ("actor", head.actor, *agent.actor), ("critic", head.critic, *agent.critic)]


def _check_fit(file: Path, policy: ContinualPolicy, agent: ExternalAgent) -> None:
    """Check that the network of the file matches the spaces of the game."""
    _check_spaces(file, policy, agent)
    for what, layer, weight, _ in _layer_targets(policy, agent):
        _check_shape(file, what, policy, layer, weight)


def _check_spaces(file: Path, policy: ContinualPolicy, agent: ExternalAgent) -> None:
    """Check that agent and game agree on image or vector observations and on continuous or discrete actions."""
    shown = policy.observation_space.shape or ()
    kind = "images" if agent.layers[0].stride else "vectors"
    if kind != ("images" if len(shown) == 3 else "vectors"):
        raise UserError(
            f"'{file}' does not fit the game: its network expects {kind}, but observations have shape {shown}"
        )
    ours, theirs = policy.current.log_std, agent.log_std
    if ours is not None and theirs is not None and ours.shape != theirs.shape:
        raise UserError(
            f"'{file}' does not fit the game: its actions have {theirs.numel()} dimensions, not {ours.numel()}"
        )
    if (ours is None) != (theirs is None):
        its, games = ("continuous", "discrete")[:: -1 if theirs is None else 1]
        raise UserError(f"'{file}' does not fit the game: it chooses {its} actions, but the game expects {games} ones")


def _check_shape(file: Path, what: str, policy: ContinualPolicy, layer: nn.Linear | nn.Conv2d, weight: Tensor) -> None:
    if layer.weight.shape == weight.shape:
        return
    if what == "actor":
        theirs, ours = len(weight), len(layer.weight)
        why = f"it chooses among {theirs} actions, but the game has {ours}"
        if isinstance(policy.action_space, spaces.Discrete):
            why += " (--set atari.full_action_space=true selects all 18 Atari actions)"
    else:
        shape = policy.observation_space.shape
        why = f"{what} has weights of shape {tuple(weight.shape)}, but observations of shape {shape} require "
        why += f"{tuple(layer.weight.shape)} (set preprocessing with --set atari.frame_size and atari.frame_stack)"
    raise UserError(f"'{file}' does not fit the game: {why}")
