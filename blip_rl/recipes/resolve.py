"""Resolve recipes and options to one ``RunConfig``.

Later settings replace earlier ones: the agent's base, the agent recipe, the sequence's ``[agent]``, each ``--set``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from blip_rl.agent_config import AgentConfig
from blip_rl.config import AtariConfig, EvaluationConfig, RunConfig, Sections
from blip_rl.recipe_errors import RecipeError, attempt, checked, dotted, problems_of, show
from blip_rl.recipes.agent import agent_config, agent_layers, combination_problems, with_task_count
from blip_rl.recipes.files import find_recipe, is_path, names_files
from blip_rl.recipes.games import Games, choose_games
from blip_rl.recipes.overrides import Layer, Override, located_line, merge, parse_override
from blip_rl.setting_types import Device, Seed, Settings, Steps
from blip_rl.task_schedule import Cycles, TaskConfig
from blip_rl.tasks.minatar_names import minatar_game


class _Options(Settings):
    """Settings of a run that its options give."""

    steps: Steps | None
    cycles: Cycles | None
    seed: Seed
    device: Device


def resolve(
    games: str,
    agent: str,
    *,
    steps: int | str | None = None,
    cycles: int | None = None,
    seed: int = 0,
    device: str = "auto",
    overrides: Sequence[str] = (),
) -> RunConfig:
    """Resolve names and options to the configuration of a run.

    Args:
        games: Names separated by commas: tasks of the shipped sequences, sequences, paths of sequence files, ALE ROMs,
            Gymnasium ids.
        agent: Name or path of an agent recipe.
        steps: Steps of every visit to a task, for example ``500k``; None leaves each its own.
        cycles: How often the order of the games is repeated; None leaves the sequence's own number.
        seed: Seed of the run.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        overrides: ``section.key=value`` settings that replace the recipes'.

    Raises:
        RecipeError: with all errors, one line each.
    """
    lines: list[str] = []
    options = attempt(lines, _options, {"steps": steps, "cycles": cycles, "seed": seed, "device": device})
    read = [override for text in overrides if (override := attempt(lines, parse_override, text))]
    chosen = attempt(lines, choose_games, games) or Games("", ())
    resolved_agent = _checked_agent(lines, agent, chosen, [o for o in read if o.recipe == "agent"])
    sections = attempt(lines, sections_config, section_layers(chosen, [o for o in read if o.recipe == "sequence"]))
    if lines or options is None or resolved_agent is None or sections is None:
        raise RecipeError(lines)
    return _assembled(Path(agent).stem if is_path(agent) else agent, resolved_agent, chosen, options, sections)


def _checked_agent(lines: list[str], name: str, games: Games, overrides: list[Override]) -> AgentConfig | None:
    """Return the agent, or None; add what is wrong to ``lines``."""
    if games.tasks or overrides or is_path(name):
        layers = attempt(lines, agent_layers, name, games, overrides)
        return attempt(lines, agent_config, layers) if layers else None
    # There are no games to learn, so there is an error already. A shipped agent without overrides has none to add, and
    # checking it would import torch.
    attempt(lines, find_recipe, "agents", name)
    return None


def _assembled(name: str, agent: AgentConfig, games: Games, options: _Options, sections: Sections) -> RunConfig:
    """Return the configuration of a run from its parts, each of which is valid.

    Raises:
        RecipeError: agent and tasks do not go together.
    """
    changes: dict[str, Any] = {} if options.steps is None else {"steps": options.steps}
    try:
        config = RunConfig(
            agent_name=name,
            sequence_name=games.name,
            seed=options.seed,
            device=options.device,
            agent=agent.model_copy(update={"method": with_task_count(agent.method, len(games.tasks))}),
            tasks=tuple(_with_game_settings(task, sections).model_copy(update=changes) for task in games.tasks),
            order=games.order,
            cycles=games.cycles if options.cycles is None else options.cycles,
            normalize_observations=sections.normalize_observations,
            normalize_rewards=sections.normalize_rewards,
            atari=sections.atari,
            evaluation=sections.evaluation,
            checkpoint=sections.checkpoint,
            compute=sections.compute,
        )
    except ValidationError as error:
        raise RecipeError([problem.text for problem in problems_of(error, RunConfig)]) from None
    if problems := _unusable_names(config) + combination_problems(config) + _short_tasks(config):
        raise RecipeError(problems)
    return config


def _unusable_names(config: RunConfig) -> list[str]:
    """Return the names with which the run could not be opened later; they are those of recipe files."""
    names = {"agent": config.agent_name, "sequence": config.sequence_name}
    return [
        f"{kind} {name!a}: expected a file name of printable characters, which the run's files are named after "
        "(rename the file)"
        for kind, name in names.items()
        if not names_files(name)
    ]


def _short_tasks(config: RunConfig) -> list[str]:
    """Return the tasks with fewer training steps than a rollout, which is the least that PPO can learn from.

    Checked for new runs only: runs of earlier versions, which rounded such steps up silently, open as before.
    """
    ppo = config.agent.ppo
    rollout = ppo.environments * ppo.rollout_steps
    short: dict[tuple[int, int], list[str]] = {}
    for stage in range(1, config.stages + 1):
        task, learning_steps = config.task_of(stage), config.learning_steps(stage)
        if learning_steps < rollout:
            short.setdefault((task.steps, task.steps - learning_steps), []).append(task.name)
    return [
        f"steps = {steps:,} for {', '.join(dict.fromkeys(names))}: expected at least {rollout + distilling:,}, one "
        f"rollout of ppo.environments × ppo.rollout_steps = {ppo.environments} × {ppo.rollout_steps} steps"
        + (f" and {distilling:,} for distilling" if distilling else "")
        + " (give more steps, or lower a setting)"
        for (steps, distilling), names in short.items()
    ]


def _with_game_settings(task: TaskConfig, sections: Sections) -> TaskConfig:
    """Return a MinAtar task without settings of its own with those of the sequence; other tasks unchanged.

    Atari's settings stay a section of the run: one agent has one preprocessing. MinAtar's change the game alone.
    """
    if task.minatar is not None or minatar_game(task.game) is None:
        return task
    return task.model_copy(update={"minatar": sections.minatar})


def _options(values: dict[str, Any]) -> _Options:
    options, problems = checked(_Options, values)
    if options is None:
        raise RecipeError([f"--{dotted(p.location)} {show(p.value)}: {p.text}" for p in problems])
    return options


def section_layers(games: Games, overrides: list[Override]) -> list[Layer]:
    """Return the settings of a sequence's sections by source: its file, overrides."""
    return [Layer(games.source, games.sections), *(override.layer() for override in overrides)]


def sections_config(layers: list[Layer]) -> Sections:
    """Merge and validate the settings of a sequence's sections.

    Raises:
        RecipeError: with all errors, one line each.
    """
    merged, lines = merge(layers)
    config, problems = checked(Sections, merged)
    lines += [located_line(layers, problem) for problem in problems]
    if lines or config is None:
        raise RecipeError(lines)
    return config.model_copy(update={"evaluation": _with_step_cap(config.evaluation, config.atari)})


def _with_step_cap(evaluation: EvaluationConfig, atari: AtariConfig) -> EvaluationConfig:
    """Return the evaluation with the emulator's limit as the cap of an episode, unless the recipe sets one."""
    if "max_episode_steps" in evaluation.model_fields_set:
        return evaluation
    decisions = -(-atari.max_episode_frames // atari.frame_skip)
    return evaluation.model_copy(update={"max_episode_steps": decisions})
