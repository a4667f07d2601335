"""Explain an agent, a sequence or a run: every setting with its value, meaning, default, allowed values and source."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blip_rl.agent_config import AgentConfig
from blip_rl.config import RunConfig
from blip_rl.errors import UserError, did_you_mean
from blip_rl.recipe_errors import RecipeError, attempt
from blip_rl.recipes.agent import agent_config, agent_layers, with_task_count
from blip_rl.recipes.files import display_path, find_recipe, is_path, read_recipe, recipe_names, split_task
from blip_rl.recipes.games import Games, choose_games
from blip_rl.recipes.overrides import Layer, Override, parse_override, value_at
from blip_rl.recipes.resolve import section_layers, sections_config
from blip_rl.recipes.run_config import load_run_config
from blip_rl.recipes.settings import (
    SettingInfo,
    agent_settings,
    method_settings,
    sequence_settings,
    settings_of,
    toml,
)
from blip_rl.task_schedule import Schedule, TaskConfig
from blip_rl.tasks.games import plain_name

_TASKS = "tasks[]."
REPLACES = " (replaces the agent's)"
"""Ends the source of the agent's settings in a sequence."""
_WIDTH, _INDENT = 100, "    "


@dataclass(frozen=True)
class ExplainedSetting:
    """A setting with its value in TOML and its source: a file, an option, or ``default``."""

    info: SettingInfo
    value: str
    source: str


@dataclass(frozen=True)
class Explanation:
    """What was explained, its description, and its settings."""

    title: str
    description: str
    settings: tuple[ExplainedSetting, ...]


def explain(name: str, *, games: str | None = None, overrides: Sequence[str] = ()) -> Explanation:
    """Resolve a recipe or a run and explain its settings.

    Args:
        name: Name or path of an agent or a sequence recipe, or the path of a run folder.
        games: With an agent: games as for training, whose settings are added.
        overrides: With an agent or a sequence: ``section.key=value`` settings.

    Raises:
        UserError: the name is unknown, the recipe is invalid (all errors at once), or an option does not apply.
    """
    kind = _kind(name)
    for option, given in (("--games", games is not None), ("--set", bool(overrides))):
        if given and (kind == "run" or (kind == "sequence" and option == "--games")):
            raise UserError(f"{option} with the {kind} {name[:80]!r}: expected an agent (leave {option} out)")
    if kind == "run":
        return _explain_run(Path(name))
    lines: list[str] = []
    read = [override for text in overrides if (override := attempt(lines, parse_override, text))]
    if lines:
        raise RecipeError(lines)
    if kind == "agent":
        return _explain_agent(name, None if games is None else choose_games(games), read)
    return _explain_sequence(name, choose_games(name), read)


def select(settings: Sequence[ExplainedSetting], keys: Sequence[str]) -> list[ExplainedSetting]:
    """Return the settings with these keys or in these sections; all if there are no keys.

    Raises:
        UserError: a key is unknown.
    """
    known = {setting.info.key.replace("[]", ""): setting for setting in settings}
    sections = sorted({key[:end] for key in known for end, letter in enumerate(key) if letter == "."})
    for key in keys:
        if key not in {*known, *sections}:
            hint = did_you_mean(key[:80], [*known, *sections]) or f": expected a key or one of {', '.join(sections)}"
            raise UserError(f"unknown setting {key[:80]!r}{hint}")
    return [
        setting
        for name, setting in known.items()
        if not keys or any(name == key or name.startswith(f"{key}.") for key in keys)
    ]


def _kind(name: str) -> str:
    """Return ``agent``, ``sequence`` or ``run``."""
    sequences = {plain_name(sequence): sequence for sequence in recipe_names("envs")}
    if name in recipe_names("agents"):
        return "agent"
    if plain_name(name) in sequences:
        return "sequence"
    path = Path(name)
    if path.is_dir() or path.name == "config.toml":
        return "run"
    if split_task(name) is not None:
        return "sequence"
    if is_path(name):
        return "sequence" if "tasks" in read_recipe(path) else "agent"
    known = [*recipe_names("agents"), *sequences.values()]
    hint = did_you_mean(name[:80], known) or f": expected one of {', '.join(known)}"
    raise UserError(f"unknown agent, sequence or run {name[:80]!r}{hint}, the path of a .toml file or a run folder")


def _explain_agent(name: str, games: Games | None, overrides: list[Override]) -> Explanation:
    of_sequence = [override for override in overrides if override.recipe == "sequence"]
    if games is None and of_sequence:
        raise UserError(
            f"--set {of_sequence[0].text}: not a setting of an agent (add --games LIST to show a whole run)"
        )
    layers = agent_layers(name, games or Games("", ()), [o for o in overrides if o.recipe == "agent"])
    config = agent_config(layers)
    if games is not None:
        method = with_task_count(config.method, len(games.tasks))
        added = {key: value for key, value in method.items() if key not in config.method}
        layers = [*layers, Layer("number of games", {"method": added})] if added else layers
        config = config.model_copy(update={"method": method})
    settings = _of_agent(config, layers)
    if games is not None:
        settings += _of_sections(games, of_sequence) + _of_schedule(games)
    return Explanation(
        f"agent {name}, {display_path(find_recipe('agents', name))}", config.description, tuple(settings)
    )


def _explain_sequence(name: str, games: Games, overrides: list[Override]) -> Explanation:
    if wrong := [override for override in overrides if override.recipe == "agent"]:
        raise UserError(f"--set {wrong[0].text}: not a setting of a sequence (show an agent with --games {name})")
    layer = Layer(games.source + REPLACES, games.agent)
    replaced = [info for info in agent_settings() if layer.holds(tuple(info.key.split(".")))]
    settings = [
        *_of_sections(games, overrides),
        *_explained(replaced, games.agent, [layer]),
        *_of_schedule(games),
    ]
    description = str(_file_values(games).get("description", ""))
    return Explanation(f"sequence {games.name}, {games.source}", description, tuple(settings))


def _explain_run(path: Path) -> Explanation:
    config = load_run_config(path)
    file = path / "config.toml" if path.is_dir() else path
    layer = Layer(display_path(file), read_recipe(file))
    values = config.model_dump(mode="json")
    settings = [
        *_explained([info for info in settings_of(RunConfig) if "." not in info.key], values, [layer]),
        *_of_agent(config.agent, [Layer(layer.source, layer.values["agent"])]),
        *_explained(
            [info for info in sequence_settings() if "." in info.key and info.key.partition(".")[0] in values],
            values,
            [layer],
        ),
        *_of_tasks(config.tasks, layer),
    ]
    description = f"{config.agent_name} on {config.sequence_name}, seed {config.seed}"
    return Explanation(f"run {path}", description, tuple(settings))


def _of_agent(config: AgentConfig, layers: list[Layer]) -> list[ExplainedSetting]:
    """Explain an agent. Naming another method drops the settings that earlier layers gave to the previous one."""
    first, name = 0, None
    for number, layer in enumerate(layers):
        method = layer.values.get("method")
        new = method.get("name") if isinstance(method, dict) else None
        if new is not None and new != name:
            first, name = number, new
    values = config.model_dump(mode="json")
    own = method_settings(str(config.method["name"]))
    return [*_explained(agent_settings(), values, layers), *_explained(own, values, layers[first:])]


def _of_sections(games: Games, overrides: list[Override]) -> list[ExplainedSetting]:
    layers = section_layers(games, overrides)
    return _explained(sequence_settings(), sections_config(layers).model_dump(mode="json"), layers)


def _of_schedule(games: Games) -> list[ExplainedSetting]:
    values = {"order": list(games.order), "cycles": games.cycles}
    layer = Layer(games.source, _file_values(games))
    return [*_explained(settings_of(Schedule), values, [layer]), *_of_tasks(games.tasks, layer)]


def _file_values(games: Games) -> dict[str, Any]:
    """Return the contents of the sequence's file; empty if there is none."""
    path = Path(games.source)  # not a file, either, where the name is quoted because it cannot be printed
    return read_recipe(path) if path.is_file() else {}


def _of_tasks(tasks: Sequence[TaskConfig], layer: Layer) -> list[ExplainedSetting]:
    """Explain the settings of the tasks, with the values of all tasks in one line."""
    written = {key for task in layer.values.get("tasks", []) for key in task}
    defaults, *dumped = (task.model_dump(mode="json") for task in (TaskConfig.model_construct(), *tasks))
    settings = []
    for info in settings_of(TaskConfig, _TASKS):
        key = info.key.removeprefix(_TASKS)
        section, dot, _ = key.partition(".")
        values = [value_at(task, key.split(".")) for task in dumped]
        if dot and not any(getattr(task, section) for task in tasks):
            continue  # settings of a kind of game that the sequence does not have
        if section in written:
            origin = layer.source
        elif all(value == defaults.get(section) for value in values):
            origin = "default"
        else:
            origin = "published scores" if "score" in key or key == "reference_name" else "--games"
        settings.append(ExplainedSetting(info, ", ".join(map(toml, values)), origin))
    return settings


def _explained(infos: Iterable[SettingInfo], values: dict[str, Any], layers: list[Layer]) -> list[ExplainedSetting]:
    """Return the settings with their values and the last layer that sets each."""
    settings = []
    for info in infos:
        location = tuple(info.key.split("."))
        sources = [layer.source for layer in layers if layer.holds(location)]
        settings.append(ExplainedSetting(info, toml(value_at(values, location)), sources[-1] if sources else "default"))
    return settings


def explanation_text(explanation: Explanation, settings: Sequence[ExplainedSetting]) -> str:
    """Format an explanation for a terminal.

    Args:
        explanation: The explanation.
        settings: Those of its settings that are shown.
    """
    blocks = [f"{explanation.title}\n{explanation.description}"]
    for setting in settings:
        info = setting.info
        default = "no default" if info.default is None else f"default {info.default}"
        facts = f"{default}; allowed: {info.allowed}; from: {setting.source}"
        blocks.append(
            f"{info.key} = {setting.value}\n"
            f"{textwrap.fill(info.meaning, _WIDTH, initial_indent=_INDENT, subsequent_indent=_INDENT)}\n"
            f"{textwrap.fill(facts, _WIDTH, initial_indent=_INDENT, subsequent_indent=_INDENT, break_on_hyphens=False)}"
        )
    return "\n\n".join(blocks)
