"""Resolve recipes and options to one ``RunConfig``; read and write the ``config.toml`` of a run folder.

Later settings replace earlier ones: the agent's base, the agent recipe, the sequence's ``[agent]``, each ``--set``.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import ValidationError

from blip_rl.agent_config import AgentConfig
from blip_rl.config import AtariConfig, CheckpointConfig, ComputeConfig, EvaluationConfig, RunConfig
from blip_rl.errors import UserError
from blip_rl.recipes.files import display_path, find_base, find_recipe, is_path, read_recipe
from blip_rl.recipes.games import Games, check_tasks_of, choose_games, import_problem
from blip_rl.recipes.overrides import Layer, Override, located_line, merge, method_name_first, parse_override
from blip_rl.recipes.problems import Problem, RecipeError, attempt, checked, dotted, problems_of, show, validated
from blip_rl.schedule import Cycles, MinatarConfig, TaskConfig
from blip_rl.setting_types import Device, Seed, Settings, Steps
from blip_rl.tasks.minatar_names import minatar_game
from blip_rl.untrusted.files import check_contained, parse_toml

_CONFIG_FILE = "config.toml"
_REMOVAL_HINT = "; --set method.KEY=none removes a key that the recipe gives"


class _Options(Settings):
    """Settings of a run that its options give."""

    steps: Steps | None
    cycles: Cycles | None
    seed: Seed
    device: Device


class Sections(Settings):
    """Sections that ``--set`` can change beside the agent's: those of a sequence recipe, and ``compute``."""

    atari: AtariConfig = AtariConfig()
    minatar: MinatarConfig = MinatarConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    compute: ComputeConfig = ComputeConfig()


def resolve(
    games: str,
    agent: str,
    *,
    steps: str | None = None,
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
    agent_config = _checked_agent(lines, agent, chosen, [o for o in read if o.recipe == "agent"])
    sections = attempt(lines, sections_config, section_layers(chosen, [o for o in read if o.recipe == "sequence"]))
    if lines or options is None or agent_config is None or sections is None:
        raise RecipeError(lines)
    return _assembled(Path(agent).stem if is_path(agent) else agent, agent_config, chosen, options, sections)


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
            agent=agent,
            tasks=tuple(_with_game_settings(task, sections).model_copy(update=changes) for task in games.tasks),
            order=games.order,
            cycles=games.cycles if options.cycles is None else options.cycles,
            atari=sections.atari,
            evaluation=sections.evaluation,
            checkpoint=sections.checkpoint,
            compute=sections.compute,
        )
    except ValidationError as error:
        raise RecipeError([problem.text for problem in problems_of(error, RunConfig)]) from None
    if problems := _combination_problems(config):
        raise RecipeError(problems)
    return config


def _with_game_settings(task: TaskConfig, sections: Sections) -> TaskConfig:
    """Return a MinAtar task without settings of its own with those of the sequence; other tasks unchanged.

    Atari's settings stay a section of the run: one agent has one preprocessing. MinAtar's change the game alone.
    """
    if task.minatar is not None or minatar_game(task.game) is None:
        return task
    return task.model_copy(update={"minatar": sections.minatar})


def load_run_config(path: Path) -> RunConfig:
    """Read the configuration of a run from its folder, or from the ``config.toml`` in it.

    Raises:
        UserError: there is no such file, it is invalid (all errors at once), or a link in the folder leaves it.
    """
    file = path / _CONFIG_FILE if path.is_dir() else path
    if path.is_dir() and not file.exists():
        raise UserError(
            f"{display_path(path)}: no {_CONFIG_FILE} in it: expected a run's folder (blip-rl train makes one)"
        )
    if file.name == _CONFIG_FILE:
        check_contained(file.parent)
    return _run_config(read_recipe(file), display_path(file))


def parse_run_config(text: str, source: str) -> RunConfig:
    """Read the configuration of a run from the text of a ``config.toml``.

    Args:
        text: TOML.
        source: Name of the text in messages.

    Raises:
        UserError: it is invalid; all errors at once.
    """
    return _run_config(parse_toml(text, source), source)


def _run_config(values: dict[str, Any], source: str) -> RunConfig:
    check_tasks_of(values, source)
    config = validated(RunConfig, values, source)
    _, problems = _method_settings(config.agent.method)
    problems += _learning_problems(config.agent.learning, config.agent.method)
    lines = [Layer(source, values).line(problem.under("agent")) for problem in problems]
    lines += [f"{source}: {problem}" for problem in _foreign_problems(config)]
    lines = lines or [f"{source}: {problem}" for problem in _combination_problems(config)]
    if lines:
        raise RecipeError(lines)
    return config


def _foreign_problems(config: RunConfig) -> list[str]:
    """Return what a run folder, which may come from a stranger, may not contain in its recipe."""
    # Files are named after the agent and the sequence.
    names = {"agent_name": config.agent_name, "sequence_name": config.sequence_name}
    problems = [
        f"{key} = {show(name)}: expected the name that blip-rl train wrote, without slashes and control characters"
        for key, name in names.items()
        if {"/", os.sep} & set(name) or not name.isprintable()
    ]
    for index, task in enumerate(config.tasks):
        if problem := import_problem(task.game):
            problems.append(f"tasks[{index}].game = {show(task.game)}: {problem}")
    return problems


def dump_run_config(config: RunConfig) -> str:
    """Return a run's configuration as TOML, without what is unset; :func:`load_run_config` gives back its equal."""
    return tomli_w.dumps(_without_none(config.model_dump(mode="json")))


def _options(values: dict[str, Any]) -> _Options:
    options, problems = checked(_Options, values)
    if options is None:
        raise RecipeError([f"--{dotted(p.location)} {show(p.value)}: {p.text}" for p in problems])
    return options


def agent_layers(name: str, games: Games, overrides: list[Override]) -> list[Layer]:
    """Return the settings of an agent by source: base, recipe, the sequence's ``[agent]``, overrides.

    Raises:
        UserError: there is no such recipe, a file cannot be read, or the base is not a shipped one.
    """
    return [
        *_recipe_layers(find_recipe("agents", name)),
        Layer(games.source, games.agent, prefix="agent."),
        *(override.layer() for override in method_name_first(overrides)),
    ]


def agent_config(layers: list[Layer]) -> AgentConfig:
    """Merge and validate the settings of an agent, with those of its method.

    Raises:
        RecipeError: with all errors, one line each.
    """
    merged, lines = merge(layers)
    config, problems = checked(AgentConfig, merged)
    method = merged.get("method")
    if isinstance(method, dict):
        problems += _learning_problems(merged.get("learning"), method)
        method, found = _method_settings(method)
        problems += found
    lines += [located_line(layers, problem) for problem in problems]
    if lines or config is None:
        raise RecipeError(lines)
    return config.model_copy(update={"method": method})


def _recipe_layers(path: Path) -> list[Layer]:
    """Return the settings of an agent recipe, after those of the base that it names."""
    values, source = read_recipe(path), display_path(path)
    if "base" not in values:
        return [Layer(source, values)]
    name = values.pop("base")
    try:
        base = find_base(name)
    except UserError as error:
        raise UserError(f"{source}: base = {show(name)}: {error}") from None
    inherited = read_recipe(base)
    if "base" in inherited:
        raise UserError(f"{display_path(base)}: base = {show(inherited['base'])}: a base cannot have a base itself")
    return [Layer(display_path(base), inherited, is_base=True), Layer(source, values)]


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


def _method_settings(method: dict[str, Any]) -> tuple[dict[str, Any], list[Problem]]:
    """Validate the settings of a method; return them with defaults, and the problems."""
    from blip_rl.methods import load_method, method_names

    name = method.get("name")
    if not isinstance(name, str):
        rule = f"expected one of: {', '.join(method_names())}"
        is_given = "name" in method
        return method, [Problem(("method", "name"), rule if is_given else f"missing: {rule}", is_given, name)]
    try:
        model = load_method(name).Settings
    except UserError as error:
        return method, [Problem(("method", "name"), str(error), True, name)]
    settings, problems = checked(model, {key: value for key, value in method.items() if key != "name"})
    if settings is None:
        return method, [_with_removal_hint(problem).under("method") for problem in problems]
    return _without_none({"name": name, **settings.model_dump(mode="json")}), []


def _learning_problems(learning: object, method: dict[str, Any]) -> list[Problem]:
    """Return a problem if the method cannot be combined with ``learning``; unknown methods are reported elsewhere."""
    from blip_rl.methods import load_method, method_names

    name = str(method.get("name")).replace("-", "_")
    if learning != "distil" or name not in method_names() or load_method(name).distillable:
        return []
    rule = (
        f"expected 'direct' with method.name = {name!r}, which does not protect one shared trunk from task to task, so "
        "there is nothing to distil into (set learning = 'direct', or choose another method)"
    )
    return [Problem(("learning",), rule, True, learning)]


def _combination_problems(config: RunConfig) -> list[str]:
    """Return why the method cannot learn this schedule with these heads."""
    from blip_rl.methods import load_method

    name, problems = str(config.agent.method["name"]), []
    method = load_method(name)
    if config.stages > len(config.tasks) and method.no_visits:
        problems.append(
            f"{config.stages} visits to {len(config.tasks)} tasks with method.name = {name!r}: {method.no_visits}; "
            "expected each task once (leave out order and cycles, give the tasks more steps, or choose another method)"
        )
    if config.agent.trunk.heads == "shared":
        told = "" if method.task_blind else f"method.name = {name!r}: its agent must be told which task it plays"
        if config.agent.learning == "distil":
            told = "learning = 'distil': a policy is distilled into a new head"
        if told:
            problems.append(
                f"trunk.heads = 'shared' with {told}; expected heads = 'per-task', or another agent for a shared head"
            )
    return problems


def _with_removal_hint(problem: Problem) -> Problem:
    """Add how to remove a key, if the rule concerns the whole section."""
    return problem if problem.location else Problem((), problem.text + _REMOVAL_HINT)


def _without_none(values: Any) -> Any:
    """Remove None values: TOML has no null."""
    if isinstance(values, dict):
        return {key: _without_none(value) for key, value in values.items() if value is not None}
    return [_without_none(value) for value in values] if isinstance(values, list) else values
