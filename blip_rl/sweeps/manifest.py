"""The runs of a sweep: made from its plan, and written to ``sweep.json`` in its folder."""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from blip_rl.config import RunConfig
from blip_rl.errors import UserError
from blip_rl.recipe_errors import RecipeError, show, validated
from blip_rl.recipes import dump_run_config, resolve
from blip_rl.recipes.settings import toml
from blip_rl.setting_types import Settings
from blip_rl.storage import atomic
from blip_rl.sweeps.job import Job
from blip_rl.sweeps.plan import MOST_RUNS, Plan, Values
from blip_rl.untrusted.files import parse_json, read_text

MANIFEST = "sweep.json"
"""File in the sweep's folder that lists its runs."""
LOGS = "logs"
"""Folder in the sweep's folder: a log of each run."""
_MOST_BYTES = 200_000_000
_LONGEST_NAME = 120


@dataclass(frozen=True)
class Setting:
    """Runs that differ in their seed alone.

    Attributes:
        name: Sequence, agent and the values of grids, as part of file names.
        options: Options of ``blip-rl train`` without seed and folder.
        recipe: The resolved recipe with seed 0, as in ``config.toml``.
    """

    name: str
    options: tuple[str, ...]
    recipe: str


@dataclass(frozen=True)
class PlannedRun:
    """A run of a sweep: a setting with a seed."""

    setting: str
    seed: int

    @property
    def name(self) -> str:
        """Name of the run and of its folder."""
        return f"{self.setting}-seed{self.seed}"


@dataclass(frozen=True)
class Manifest:
    """All runs of a sweep, in the order in which they start: seed by seed, so that all settings advance together.

    Attributes:
        settings: By name.
        runs: In order.
        threads: CPU threads of each run.
    """

    settings: dict[str, Setting]
    runs: tuple[PlannedRun, ...]
    threads: int = 1

    def job(self, folder: Path, run: PlannedRun) -> Job:
        """Return a run as a job below a sweep folder."""
        setting, place = self.settings[run.setting], folder.absolute()
        return Job(
            name=run.name,
            path=place / run.name,
            log=place / LOGS / f"{run.name}.log",
            recipe=dump_run_config(self.config(run)),
            options=(*setting.options, "--seed", str(run.seed)),
            threads=self.threads,
        )

    def jobs(self, folder: Path) -> list[Job]:
        """Return all runs as jobs."""
        return [self.job(folder, run) for run in self.runs]

    def config(self, run: PlannedRun) -> RunConfig:
        """Return the recipe of a run."""
        return self.config_of(run.setting).model_copy(update={"seed": run.seed})

    def config_of(self, setting: str) -> RunConfig:
        """Return the recipe of a setting, with seed 0."""
        return _parsed(self.settings[setting].recipe)


def make_manifest(plan: Plan, seeds: Sequence[int] | None = None) -> Manifest:
    """Resolve and check the recipe of every run.

    Args:
        plan: The plan.
        seeds: Seeds to run; None: those that the plan reports.

    Raises:
        UserError: A recipe is invalid, or there are too many runs; one message with all problems.
    """
    seeds = plan.seeds if seeds is None else seeds
    count = len(plan.sequences) * sum(map(plan.count_of, plan.agents)) * len(seeds)
    if count > MOST_RUNS:  # before recipes are resolved, which takes milliseconds each
        raise UserError(f"{count:,} runs: expected at most {MOST_RUNS:,} (split the sweep)")
    found: list[Setting] = []
    lines: list[str] = []
    for sequence in plan.sequences:
        for agent in plan.agents:
            try:
                found += _settings_of(plan, sequence, agent)
            except RecipeError as error:
                lines += [_of_grid(line, plan.varied_by(agent)) for line in error.problems]
    if lines:
        raise RecipeError(list(dict.fromkeys(lines)))
    settings = by_name(found)
    return Manifest(settings, tuple(PlannedRun(name, seed) for seed in seeds for name in settings), plan.threads)


def by_name(settings: Sequence[Setting]) -> dict[str, Setting]:
    """Return settings by their names.

    Raises:
        UserError: Two have the same name, and would so have the same folders.
    """
    if twice := [name for name, count in Counter(one.name for one in settings).items() if count > 1]:
        raise UserError(
            f"two settings have the name {twice[0]!r}: expected different names; a recipe has that of its file "
            "(rename one of the files, or leave out a value that is given twice)"
        )
    return {one.name: one for one in settings}


def _settings_of(plan: Plan, sequence: str, agent: str) -> Iterator[Setting]:
    for values in plan.settings_of(agent):
        yield make_setting(plan, sequence, agent, values, plan.varied_by(agent))


def make_setting(plan: Plan, sequence: str, agent: str, values: Values, varied: Sequence[str]) -> Setting:
    """Resolve one setting of an agent on a sequence.

    Args:
        plan: Its steps, cycles, device and threads hold for all runs.
        sequence: As ``--games`` takes it.
        agent: Name or file of the agent recipe.
        values: Key → value, as ``--set`` takes them.
        varied: Keys whose values are part of the name.

    Raises:
        RecipeError: The recipe is invalid.
    """
    changes = [f"{key}={toml(value)}" for key, value in values.items()]
    common: dict[str, Any] = {"steps": plan.steps, "cycles": plan.cycles, "device": plan.device}
    config = resolve(sequence, agent, **common, overrides=changes)
    options = ["--games", sequence, "--agent", agent, "--threads", str(plan.threads)]
    options += [part for key, value in common.items() if value is not None for part in (f"--{key}", str(value))]
    options += [part for change in changes for part in ("--set", change)]
    parts = [config.sequence_name, config.agent_name, *(f"{key.rpartition('.')[2]}={values[key]}" for key in varied)]
    return Setting(_file_name("-".join(parts)), tuple(options), dump_run_config(config))


def _file_name(text: str) -> str:
    """Return a text as part of a file name; a digest distinguishes texts whose allowed characters are equal."""
    name = re.sub(r"[^A-Za-z0-9_.,=+-]+", "_", text).lstrip(".-")
    if name == text and len(name) <= _LONGEST_NAME:
        return name
    return f"{name[:_LONGEST_NAME]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _of_grid(line: str, varied: Sequence[str]) -> str:
    """Name the grid instead of ``--set`` in a message about a value of a grid."""
    key = line.removeprefix("--set ").partition("=")[0]
    return f"grid {line.removeprefix('--set ')}" if key in varied else line


@functools.lru_cache(maxsize=256)  # parsing takes milliseconds, and a setting has many seeds
def _parsed(recipe: str) -> RunConfig:
    from blip_rl.recipes import parse_run_config, trusting

    with trusting(remember=False):  # whoever made the manifest has trusted what the recipe names
        return parse_run_config(recipe, MANIFEST)


class _Saved(Settings):
    """``sweep.json``."""

    version: Annotated[int, Field(ge=1, le=1)]
    threads: Annotated[int, Field(ge=1, le=1024)]
    settings: dict[str, Setting]
    runs: tuple[PlannedRun, ...]


def save_manifest(folder: Path, manifest: Manifest) -> None:
    """Write ``sweep.json`` atomically.

    Raises:
        OSError: The disk is full or not writable.
    """
    values = {"version": 1, **asdict(manifest)}
    atomic.replace_text(folder / MANIFEST, json.dumps(values, indent=1, ensure_ascii=False) + "\n")


def load_manifest(folder: Path) -> Manifest:
    """Read ``sweep.json``.

    Raises:
        UserError: It is missing or invalid.
    """
    path = folder / MANIFEST
    saved = validated(_Saved, parse_json(read_text(path, _MOST_BYTES), f"'{path}' cannot be read"), str(path))
    if unknown := [run for run in saved.runs if run.setting not in saved.settings]:
        raise UserError(
            f"'{path}': the run with seed {unknown[0].seed} has the setting {show(unknown[0].setting)}: expected one "
            "that the file lists (it is damaged: restore it, or choose a new --out)"
        )
    return Manifest(saved.settings, saved.runs, saved.threads)
