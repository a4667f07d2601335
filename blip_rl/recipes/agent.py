"""Resolve an agent: its base, its recipe, the sequence's ``[agent]`` and overrides, and the settings of its method."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from blip_rl.agent_config import AgentConfig
from blip_rl.config import RunConfig
from blip_rl.errors import UserError
from blip_rl.recipe_errors import Problem, RecipeError, checked, show
from blip_rl.recipes.files import display_path, find_base, find_recipe, read_recipe
from blip_rl.recipes.games import Games
from blip_rl.recipes.overrides import Layer, Override, located_line, merge, method_name_first

_REMOVAL_HINT = "; --set method.KEY=none removes a key that the recipe gives"


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
        problems += learning_problems(merged.get("learning"), method)
        method, found = checked_method(method)
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


def checked_method(method: dict[str, Any]) -> tuple[dict[str, Any], list[Problem]]:
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
    return without_none({"name": name, **settings.model_dump(mode="json")}), []


def with_task_count(method: dict[str, Any], tasks: int) -> dict[str, Any]:
    """Return the method's settings with the number of tasks, where the method needs it and it is not set."""
    from blip_rl.methods import load_method

    setting = load_method(str(method["name"])).tasks_setting
    return method if not setting or setting in method else method | {setting: tasks}


def learning_problems(learning: object, method: dict[str, Any]) -> list[Problem]:
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


def combination_problems(config: RunConfig) -> list[str]:
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


def without_none(values: Any) -> Any:
    """Remove None values: TOML has no null."""
    if isinstance(values, dict):
        return {key: without_none(value) for key, value in values.items() if value is not None}
    return [without_none(value) for value in values] if isinstance(values, list) else values
