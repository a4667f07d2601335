"""The scheduler: for each task of the sequence start, learn, score, consolidate, score again, save.

A method that learns all tasks at once has one such stage.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import torch
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import VecEnv

from blip_rl.config import RunConfig
from blip_rl.errors import RunError, UserError
from blip_rl.learner.ppo import ContinualPPO
from blip_rl.learner.trunk import check_observations, check_trunk
from blip_rl.methods import make_method
from blip_rl.methods.base import Method
from blip_rl.run.checkpoint import save_stage, trunk_bytes
from blip_rl.run.console import Console
from blip_rl.run.evaluation import FIRST_EVALUATION_SEED
from blip_rl.run.folder import RunFolder, default_path
from blip_rl.run.interleaved import learned_together
from blip_rl.run.monitor import TaskMonitor, bits_rows, log_bits
from blip_rl.run.parts import RunParts, training_seed
from blip_rl.run.scores import ScoreBook
from blip_rl.run.summary import boundary_line, closing_text, opening_text
from blip_rl.tasks.make import make_training_env


def train(config: RunConfig, *, out: Path | None = None, threads: int = 0, quiet: bool = False) -> Path:
    """Learn a sequence of tasks with one agent and leave a run folder that describes itself.

    Args:
        config: Everything that decides the run.
        out: Folder to create; None picks a new one below ``runs/``.
        threads: CPU threads for the network; 0 leaves torch's choice: OMP_NUM_THREADS, or every core.
        quiet: Print nothing.

    Returns:
        The run folder.

    Raises:
        UserError: something about the request cannot work; nothing has been written then.
    """
    folder = RunFolder.planned(out if out is not None else default_path(config))
    device = resolve_device(config.device)
    if threads:
        torch.set_num_threads(threads)  # otherwise torch's own choice: OMP_NUM_THREADS, or every core
    method = make_method(config.agent.method)
    _check_tasks(config, method)
    run = _open(config, folder, device, method, Console(quiet))
    run.console.say(opening_text(config, folder.path, device))
    try:
        if method.interleaved:
            _learn_at_once(run)
        else:
            for stage in range(1, len(config.tasks) + 1):
                _learn_stage(run, stage)
    except FloatingPointError as error:
        raise RunError(f"{error}; finished stages and all scores so far are in {folder.path}") from error
    except KeyboardInterrupt:
        run.console.say(f"\nstopped; finished stages and all scores so far are in {folder.path}")
        raise
    finally:
        run.logger.close()
    run.console.say(closing_text(config, run.scores, folder.path))
    return folder.path


def resolve_device(device: str) -> str:
    """``auto`` → ``cuda`` where there is one, else ``cpu``.

    Raises:
        UserError: the device is not there.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    found = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    if device not in [*found, *(["cuda"] if len(found) > 1 else [])]:
        raise UserError(f"device {device!r} is not there: this machine has {', '.join(found)} (or say auto)")
    return device


def _check_tasks(config: RunConfig, method: Method) -> None:
    """Open every task once, so that a task that cannot work is found before anything is written."""
    first: VecEnv | None = None
    for task in config.tasks:
        env = make_training_env(task, config.atari, 1, 0)
        env.close()
        first = first or env
        check_observations(task.name, env.observation_space, config.tasks[0].name, first.observation_space)
        method.check_task(task.name, env.action_space)
    check_trunk(cast(VecEnv, first).observation_space, config.agent.trunk)


def _open(config: RunConfig, folder: RunFolder, device: str, method: Method, console: Console) -> RunParts:
    from blip_rl.recipes import dump_run_config

    stages = range(1, len(config.tasks) + 1)
    seeds = {
        "run": config.seed,
        "first_training_seed_of_each_stage": [training_seed(config.seed, stage) for stage in stages],
        "first_evaluation_seed": FIRST_EVALUATION_SEED + config.evaluation.seed,
    }
    folder.create(dump_run_config(config), device, seeds)
    logger = configure(str(folder.path), ["tensorboard"])
    return RunParts(config, folder, device, method, logger, ScoreBook(config, folder, logger, console, method), console)


@contextmanager
def _environments(run: RunParts, stage: int) -> Iterator[VecEnv]:
    """The task's training games, seeded by run and stage."""
    task = run.config.tasks[stage - 1]
    seed = training_seed(run.config.seed, stage)
    env = make_training_env(task, run.config.atari, run.config.agent.ppo.environments, seed)
    try:
        if run.agent is None:
            run.agent = ContinualPPO(run.config.agent, task.name, env, seed=run.config.seed, device=run.device)
            run.agent.set_logger(run.logger)
        else:
            run.agent.switch_task(task.name, env)
        env.seed(seed)  # building the agent has reseeded its environments
        yield env
    finally:
        env.close()


def _learn_stage(run: RunParts, stage: int) -> None:
    task = run.config.tasks[stage - 1]
    with _environments(run, stage):
        agent = cast(ContinualPPO, run.agent)
        monitor = TaskMonitor(run.config, stage, run.scores, run.method, run.console)
        with agent.protected_by(run.method):
            try:
                agent.learn(task.steps, callback=monitor, reset_num_timesteps=False)
            finally:
                monitor.close()
        _consolidate(run, agent, stage)
    save_stage(run.folder.stage_path(stage), stage, agent.num_timesteps, agent.policy, run.method)
    run.console.say(boundary_line(run.config, run.scores, stage, run.method.frozen_bits()))


def _learn_at_once(run: RunParts) -> None:
    """All tasks in one stage, whose number is that of the tasks: the last row of the score matrix is all there is."""
    stage = len(run.config.tasks)
    with learned_together(run) as agent:
        _consolidate(run, agent, stage)
    save_stage(run.folder.stage_path(stage), stage, agent.num_timesteps, agent.policy, run.method)


def _consolidate(run: RunParts, agent: ContinualPPO, stage: int) -> None:
    """Score, let the method consolidate the task, score again."""
    steps, trunk = agent.num_timesteps, agent.policy.trunk
    played = run.scores.evaluate(agent.policy, stage, "before", steps)
    weights_before = trunk_bytes(trunk)
    generator = torch.Generator().manual_seed(run.config.seed * 1_000 + stage)
    figures = run.method.end_task(agent.finished_task(run.method.samples_wanted, generator))
    for name, value in figures.items():
        run.logger.record(f"method/{name}", value)
    frozen = run.method.frozen_bits()
    if frozen:
        log_bits(run.logger, frozen, run.method.total_bits, run.config.tasks[stage - 1].name, steps)
        run.folder.add_bits(bits_rows(frozen, stage))
    if trunk_bytes(trunk) == weights_before and run.config.evaluation.actions == "greedy":
        # Same weights, same seeds, greedy actions: the same games would be played again.
        run.scores.record(played, stage, "after", steps)
    else:
        run.scores.evaluate(agent.policy, stage, "after", steps)
