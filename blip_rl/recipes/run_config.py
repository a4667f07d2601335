"""Read and write the ``config.toml`` of a run folder, which may come from an untrusted source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tomli_w

from blip_rl.config import RunConfig
from blip_rl.errors import UserError
from blip_rl.recipe_errors import RecipeError, show, validated
from blip_rl.recipes.agent import checked_method, combination_problems, learning_problems, without_none
from blip_rl.recipes.files import display_path, names_files, read_recipe
from blip_rl.recipes.games import check_tasks_of
from blip_rl.recipes.overrides import Layer
from blip_rl.recipes.trust import import_problems
from blip_rl.untrusted.files import check_contained, parse_toml

_CONFIG_FILE = "config.toml"
# Settings that no longer exist, with the values that switched them off: earlier versions wrote all settings down.
_RETIRED = {"blip": {"pull": 0.0, "pull_fisher": "diagonal", "pull_damping": 0.0, "pull_rank": 32, "budget": 0.0}}


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
    _remove_retired(values)
    check_tasks_of(values, source)
    config = validated(RunConfig, values, source)
    _, problems = checked_method(config.agent.method)
    problems += learning_problems(config.agent.learning, config.agent.method)
    lines = [Layer(source, values).line(problem.under("agent")) for problem in problems]
    lines += [f"{source}: {problem}" for problem in _untrusted_problems(config)]
    lines = lines or [f"{source}: {problem}" for problem in combination_problems(config)]
    if lines:
        raise RecipeError(lines)
    return config


def _remove_retired(values: dict[str, Any]) -> None:
    """Remove settings that no longer exist, if the run did not use them."""
    agent = values.get("agent")
    method = agent.get("method") if isinstance(agent, dict) else None
    if not isinstance(method, dict):
        return
    for name, off in _RETIRED.get(str(method.get("name")), {}).items():
        if method.get(name) == off:
            del method[name]


def _untrusted_problems(config: RunConfig) -> list[str]:
    """Return what an untrusted run folder may not contain in its recipe."""
    # Files are named after the agent and the sequence.
    names = {"agent_name": config.agent_name, "sequence_name": config.sequence_name}
    problems = [
        f"{key} = {show(name)}: expected the name that blip-rl train wrote, without slashes and control characters"
        for key, name in names.items()
        if not names_files(name)
    ]
    for index, task in enumerate(config.tasks):
        problems += [f"tasks[{index}].{problem}" for problem in import_problems(task)]
    return problems


def with_defaults(config: RunConfig) -> RunConfig:
    """Return a recipe with the defaults of settings that its method did not have in the version that wrote it.

    Recipes of the same settings by different versions are equal only then.
    """
    method, _ = checked_method(config.agent.method)
    return config.model_copy(update={"agent": config.agent.model_copy(update={"method": method})})


def dump_run_config(config: RunConfig) -> str:
    """Return a run's configuration as TOML, without what is unset; :func:`load_run_config` gives back its equal."""
    return tomli_w.dumps(without_none(config.model_dump(mode="json")))
