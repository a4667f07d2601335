"""What a run would do: its tasks and network, and estimates of its memory, disk and time. Writes nothing."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import torch

from blip_rl.config import RunConfig
from blip_rl.errors import UserError
from blip_rl.formatting import aligned, duration
from blip_rl.learner.policy import ContinualPolicy
from blip_rl.learner.separate_trunk import build_method
from blip_rl.methods.base import Method
from blip_rl.recipes import load_run_config
from blip_rl.run.device import cpu_threads, resolve_device
from blip_rl.run.resources import ResourceEstimate, estimate_resources, learning_parts, peak_memory_bytes
from blip_rl.run.summary import opening_text
from blip_rl.run.task_checks import check_tasks
from blip_rl.storage import validation
from blip_rl.storage.run_folder import planned_folder
from blip_rl.tasks.games import is_atari
from blip_rl.tasks.make import make_training_env
from blip_rl.untrusted.files import read_json
from blip_rl.untrusted.machine import in_words, memory_bytes
from blip_rl.untrusted.tables import table_rows

_MOST_RUNS = 50  # whose speed is looked up, newest first


def dry_run_text(config: RunConfig, *, out: Path | None = None, threads: int = 0) -> str:
    """Check a run as :func:`blip_rl.run.train.train` does before it writes anything, and describe it.

    Args:
        config: The resolved recipe.
        out: Folder that the run would create; None picks a new name below ``runs/``.
        threads: CPU threads of torch; 0 keeps torch's default.

    Returns:
        The tasks, the size of the network, and estimates.

    Raises:
        UserError: The recipe or the folder is invalid.
    """
    folder = planned_folder(out, config).path
    device, method = resolve_device(config.device), build_method(config.agent)
    tasks = check_tasks(config, method)
    threads = cpu_threads(threads, device) or torch.get_num_threads()
    return "\n".join(
        [
            "dry run: nothing is trained and nothing is written; memory, disk and time are estimates",
            opening_text(config, folder, device),
            *aligned([_stage_row(config, stage) for stage in config.all_stages], left=3),
            *aligned(
                [
                    *_network_rows(config, method, tasks, folder, device),
                    ["time", _time_text(config, folder.parent, device, threads)],
                ]
            ),
        ]
    )


def _stage_row(config: RunConfig, stage: int) -> list[str]:
    task = config.task_of(stage)
    return [str(stage), task.name, task.game, f"{config.played_steps(stage):,} steps"]


def _network_rows(
    config: RunConfig, method: Method, tasks: validation.Tasks, folder: Path, device: str
) -> list[list[str]]:
    """Return the size of the network, and the estimated memory and disk."""
    policy, estimate = estimate_needs(config, method, tasks)
    trunk = sum(parameter.numel() for parameter in policy.trunk.parameters())
    head = sum(parameter.numel() for parameter in policy.current.parameters())
    on_gpu = "" if device == "cpu" else "; the GPU's memory is not estimated"
    memory = f"at least {in_words(estimate.memory)}, without activations (this machine: {in_words(memory_bytes())})"
    free = shutil.disk_usage(next(path for path in folder.absolute().parents if path.exists())).free
    disk = f"up to {in_words(estimate.disk)} during the run, {in_words(estimate.final_disk)} when it has finished"
    return [
        ["network", f"{trunk:,} parameters in the trunk, {head:,} in the head of {config.tasks[-1].name}"],
        ["memory", memory + on_gpu],
        ["disk", f"{disk} ({in_words(free)} free)"],
    ]


def estimate_needs(
    config: RunConfig, method: Method, tasks: validation.Tasks
) -> tuple[ContinualPolicy, ResourceEstimate]:
    """Return the network of a run, without memory for its weights, and an estimate of what the run needs."""
    env = make_training_env(config.tasks[0], config.atari, 1, 0)
    env.close()
    policy = validation.meta_policy(env.observation_space, tasks, config)
    weights = validation.weight_bytes(policy)
    learning = sum(learning_parts(config, env.observation_space, weights, together=method.interleaved).values())
    # The libraries are loaded by now: count the memory of this process as the base of a run.
    return policy, estimate_resources(config, policy, method, peak_memory_bytes() + int(learning))


def similar_speed(config: RunConfig, runs: Path, device: str, threads: int) -> tuple[Path, float] | None:
    """Return the newest run below a folder that learned the same way, and its steps per second; None without one."""
    return next(_rates(config, runs, device, threads), None)


def _time_text(config: RunConfig, runs: Path, device: str, threads: int) -> str:
    rate = similar_speed(config, runs, device, threads)
    if rate is None:
        return f"unknown: no similar run below '{runs}' (train prints an estimate after its first updates)"
    run, steps_per_second = rate
    return (
        f"about {duration(config.all_played_steps / steps_per_second)} of training, plus evaluations, at "
        f"{steps_per_second:,.0f} steps/s as in '{run}'"
    )


def _rates(config: RunConfig, runs: Path, device: str, threads: int) -> Iterator[tuple[Path, float]]:
    """Yield runs that learned the same way with these threads and such a device, and their steps per second."""
    files = sorted(runs.glob("*/speed.csv"), key=lambda file: file.stat().st_mtime, reverse=True)
    for file in files[:_MOST_RUNS]:
        try:
            environment = read_json(file.parent / "environment.json")
            if (environment.get("device"), environment.get("threads")) != (device, threads):
                continue
            if _what_sets_the_speed(load_run_config(file.parent)) != _what_sets_the_speed(config):
                continue
            rows = [row for _, row in table_rows(file)[1]]
            steps_per_second = float(rows[-1]["steps_per_second"])
        except (UserError, AttributeError, LookupError, TypeError, ValueError):
            continue  # damaged, or of another version: such a run says nothing about the speed
        if steps_per_second > 0:
            yield file.parent, steps_per_second


def _what_sets_the_speed(config: RunConfig) -> tuple[object, ...]:
    games = {task.game for task in config.tasks if not is_atari(task.game)}  # all Atari games are about equally fast
    return config.agent.ppo, config.agent.trunk, config.agent.method, config.agent.learning, config.compute, games
