"""A sweep's plan: agents, sequences, seeds, and settings to vary; from a ``sweep.toml`` or from options."""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from blip_rl.formatting import flatten
from blip_rl.limits import LARGEST_SEED, MOST_THREADS
from blip_rl.recipe_errors import Problem, RecipeError, checked, show
from blip_rl.setting_types import Matching, Settings, Steps
from blip_rl.sweeps.ranges import Range, Ranges, flatten_ranges
from blip_rl.task_schedule import Cycles
from blip_rl.untrusted.files import read_toml

MOST_RUNS = 100_000
_SEED_RULE = "expected seeds such as 0-9, 0,2,5 or a list of whole numbers from 0 to 1,073,741,823"

_TABLES = ("set", "grid")

Values = Mapping[str, Any]
"""Key as for ``--set`` → value."""


def parse_seeds(value: object) -> tuple[int, ...]:
    """Read seeds: ``"0-9"``, ``"0,2,5"``, ``"0-4,10"``, a number or a list of numbers; in the order given.

    Raises:
        ValueError: No seeds, a range that runs backwards, a seed given twice, or not seeds.
    """
    parts = value.split(",") if isinstance(value, str) else list(value) if isinstance(value, list | tuple) else [value]
    given = [_seeds_of(value, part) for part in parts]
    count = sum(map(len, given))  # of ranges: counted before they are expanded
    if not count:
        raise ValueError(f"{value!r}: {_SEED_RULE}, and at least one")
    if count > MOST_RUNS:
        raise ValueError(f"{value!r}: {count:,} seeds: expected at most {MOST_RUNS:,}")
    seeds = tuple(itertools.chain.from_iterable(given))
    if twice := [seed for seed, times in Counter(seeds).items() if times > 1]:
        raise ValueError(f"{value!r}: seed {twice[0]} is given twice: expected each once")
    return seeds


def _seeds_of(value: object, part: object) -> Sequence[int]:
    if isinstance(part, int) and not isinstance(part, bool) and 0 <= part <= LARGEST_SEED:
        return [part]
    match = re.fullmatch(r"\s*(\d{1,10})\s*(?:-\s*(\d{1,10})\s*)?", part) if isinstance(part, str) else None
    if match is None:
        raise ValueError(f"{value!r}: {_SEED_RULE}")
    first = int(match[1])
    last = first if match[2] is None else int(match[2])
    if last < first:
        raise ValueError(f"{value!r}: the range {first}-{last} runs backwards: expected {last}-{first}")
    if last > LARGEST_SEED:
        raise ValueError(f"{value!r}: {_SEED_RULE}")
    return range(first, last + 1)


def _agents(value: object) -> object:
    return tuple(name.strip() for name in value.split(",")) if isinstance(value, str) else value


def _sequences(value: object) -> object:
    return (value,) if isinstance(value, str) else value


def _flat(value: object) -> object:
    """Join the keys of nested tables, so that ``method.strength`` need not be quoted in TOML; check the values."""
    if not isinstance(value, dict):
        return value
    table = dict(flatten(value))
    for key, one in table.items():
        for odd in _odd(one):
            raise ValueError(
                f"{key} = {str(odd)[:60]}: expected numbers, text, true, false or lists of these, not a date or time "
                "(text is in quotes)"
            )
    return table


def _odd(value: object) -> Iterator[object]:
    """Yield what a recipe cannot have in a value: TOML also knows dates and times."""
    if isinstance(value, dict | list | tuple):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _odd(inner)
    elif not (value is None or isinstance(value, bool | int | float | str)):
        yield value


def _lists(value: object) -> object:
    """Check that every key of a grid has a list of values."""
    grid = _flat(value)
    for key, values in grid.items() if isinstance(grid, dict) else ():
        if not isinstance(values, list | tuple) or not values:
            raise ValueError(f"{key} = {show(values)}: expected a list of values, such as [0.01, 0.1]")
        if any(values.count(one) > 1 for one in values):
            raise ValueError(f"{key} = {show(values)}: expected each value once")
    return grid


_DEVICES = (
    "auto, cpu or cuda, because a sweep spreads its runs over the GPUs itself (choose GPUs with CUDA_VISIBLE_DEVICES)"
)
AnyGpu = Annotated[str, AfterValidator(Matching("auto|cpu|cuda", _DEVICES))]
Seeds = Annotated[tuple[int, ...], BeforeValidator(parse_seeds)]
_Names = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)]
Agents = Annotated[_Names, BeforeValidator(_agents)]
Sequences = Annotated[_Names, BeforeValidator(_sequences)]
Fixed = Annotated[dict[str, Any], BeforeValidator(_flat)]
Grid = Annotated[dict[str, tuple[Any, ...]], BeforeValidator(_lists)]


class AgentPlan(Settings):
    """What a plan varies for one agent, beside what it varies for all."""

    set: Fixed = Field(default_factory=dict)
    """Settings of this agent."""
    grid: Grid = Field(default_factory=dict)
    """Key → values; every combination is a setting of its own."""
    search: Ranges = Field(default_factory=dict)
    """Key → values among which ``--search`` looks; otherwise not used."""


class Plan(AgentPlan):
    """What to run. Every combination of agent, its settings, sequence and seed is a run."""

    agents: Agents = ("blip",)
    """Agent recipes: names or ``.toml`` files."""
    sequences: Sequences
    """Sequences, each as ``--games`` takes it."""
    seeds: Seeds
    """Seeds of the runs that are reported."""
    tuning_seeds: Seeds | None = None
    """Seeds on which ``--search`` compares settings; none of ``seeds``."""
    steps: Steps | None = None
    """Training steps of each game (and visit)."""
    cycles: Cycles | None = None
    """How often the order of the games is repeated."""
    device: AnyGpu = "auto"
    """Torch device."""
    threads: Annotated[int, Field(ge=1, le=MOST_THREADS)] = 1
    """CPU threads of each run."""
    agent: dict[str, AgentPlan] = Field(default_factory=dict)
    """Agent → what is set and varied for it alone."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name, given in (("agents", self.agents), ("sequences", self.sequences)):
            if len(set(given)) < len(given):
                raise ValueError(f"{name} = {show(list(given))}: expected each once")
        if unknown := [name for name in self.agent if name not in self.agents]:
            raise ValueError(
                f"agent.{unknown[0]}: settings of an agent that is not run: expected one of {', '.join(self.agents)}"
            )
        if both := sorted(set(self.seeds) & set(self.tuning_seeds or ())):
            raise ValueError(
                f"seed {both[0]} is in seeds and in tuning_seeds: expected other seeds to tune on than to report"
            )
        return self

    def settings_of(self, agent: str) -> Iterator[Values]:
        """Yield the settings of each combination of the agent's grids; fixed ones first."""
        grid = self._grid_of(agent)
        for values in itertools.product(*grid.values()):
            yield {**self.fixed_for(agent), **dict(zip(grid, values, strict=True))}

    def varied_by(self, agent: str) -> list[str]:
        """Return the keys that distinguish an agent's settings: those of its grids."""
        return list(self._grid_of(agent))

    def count_of(self, agent: str) -> int:
        """Return how many settings of an agent there are."""
        return math.prod(map(len, self._grid_of(agent).values()))

    def _grid_of(self, agent: str) -> Grid:
        return {**self.grid, **self.agent.get(agent, AgentPlan()).grid}

    def fixed_for(self, agent: str) -> Values:
        """Return what is set for an agent, without grids."""
        return {**self.set, **self.agent.get(agent, AgentPlan()).set}

    def ranges_of(self, agent: str) -> dict[str, Range]:
        """Return the ranges that ``--search`` searches for an agent."""
        return {**self.search, **self.agent.get(agent, AgentPlan()).search}


def read_plan(plan: Path | Mapping[str, Any] | None, options: Mapping[str, Any]) -> Plan:
    """Read a plan.

    Args:
        plan: ``sweep.toml``, or a mapping with its keys; None: everything comes from options.
        options: Keys of the plan that options give, which replace the plan's; ``set`` and ``grid`` are added to it,
            and their keys are left nowhere else in its sets, grids and ranges. Settings of agents that are in the
            plan's list and not in the options' are left out.

    Raises:
        UserError: The plan is invalid; the message lists all problems.
    """
    path = plan if isinstance(plan, Path) else None
    values = read_toml(plan) if isinstance(plan, Path) else dict(plan or {})
    given = {key: value for key, value in options.items() if value is not None}
    if "agents" in given and isinstance(values.get("agent"), dict):
        left_out = set(_names(values.get("agents"))) - set(_names(given["agents"]))
        values["agent"] = {name: of_agent for name, of_agent in values["agent"].items() if name not in left_out}
    found, problems = checked(Plan, _joined(values, given))
    if found is None:
        raise RecipeError([_line(problem, path, given) for problem in problems])
    return found


def _joined(values: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return a plan's values with those of options, which win over all of its sets, grids and ranges."""
    given = {name: dict(flatten(options[name])) for name in _TABLES if isinstance(options.get(name), dict)}
    fixed, varied = (list(given.get(name, ())) for name in _TABLES)
    both = [*fixed, *varied]
    left = _without(values, {"set": varied, "grid": fixed, "search": both})
    if isinstance(left.get("agent"), dict):
        keys = dict.fromkeys((*_TABLES, "search"), both)
        left["agent"] = {name: _without(one, keys) for name, one in left["agent"].items()}
    added = {name: {**left[name], **table} for name, table in given.items() if isinstance(left.get(name), dict)}
    return {**left, **options, **added}


def _without(section: Any, keys: Mapping[str, Sequence[str]]) -> Any:
    """Return a section with its tables flat and without keys; what is no table is left to the validation."""
    if not isinstance(section, Mapping):
        return section
    tables = {name: section[name] for name in keys if isinstance(section.get(name), dict)}
    flat = {name: dict((flatten_ranges if name == "search" else flatten)(table)) for name, table in tables.items()}
    return {**section, **{name: _unset(table, keys[name]) for name, table in flat.items()}}


def _unset(table: Values, keys: Sequence[str]) -> dict[str, Any]:
    """Return a table without keys, those below them and the tables that they are in."""
    return {key: value for key, value in table.items() if not any(_overlap(key, one) for one in keys)}


def _overlap(one: str, other: str) -> bool:
    return f"{one}.".startswith(f"{other}.") or f"{other}.".startswith(f"{one}.")


def _names(agents: Any) -> list[str]:
    """Return the names in a list of agents as a file or an option gives it; none if it is no such list."""
    listed = _agents(agents)
    return [name for name in listed if isinstance(name, str)] if isinstance(listed, list | tuple) else []


def _line(problem: Problem, path: Path | None, options: Mapping[str, Any]) -> str:
    """Return a problem of the plan as one line that names its file or its option."""
    if not problem.location:
        return f"{path}: {problem.text}" if path is not None else problem.text
    key = str(problem.location[0])
    if path is not None and key not in options:
        return f"{path}: {problem.line()}"
    if len(problem.location) > 1:
        return problem.line()
    option = "--games" if key == "sequences" else f"--{key.replace('_', '-')}"
    if problem.text.startswith("missing"):
        return f"{option} is missing: expected it, or a plan (blip-rl sweep plan.toml)"
    if not problem.has_value:
        return f"{option} {problem.text}"
    return f"{option} {show(problem.value)}: {problem.text}"
