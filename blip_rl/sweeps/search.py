"""Hyperparameter search: rounds of trials on the tuning seeds; a trial's value is the mean ACC of its runs.

``search.json`` in the folder holds the ranges and the settings of all trials, but no values: these are read from the
runs, so that a search that was stopped or killed continues from what is there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from blip_rl.config import RunConfig
from blip_rl.core import metrics
from blip_rl.core.score_matrix import select_columns
from blip_rl.errors import RunError, UserError
from blip_rl.formatting import aligned, score_text
from blip_rl.recipe_errors import RecipeError, attempt, validated
from blip_rl.recipes.settings import toml
from blip_rl.reporting.scores import load_scores
from blip_rl.setting_types import Settings
from blip_rl.storage import atomic
from blip_rl.sweeps.engine import Engine
from blip_rl.sweeps.folder import SEARCH, finished_runs, open_folder
from blip_rl.sweeps.manifest import Manifest, PlannedRun, Setting, by_name, make_setting, save_manifest
from blip_rl.sweeps.plan import Plan, Values
from blip_rl.sweeps.ranges import Range
from blip_rl.sweeps.run import failed_text, run_jobs
from blip_rl.sweeps.schedule import JobState
from blip_rl.untrusted.files import read_json

_BEST_SHOWN = 10

Suggest = Callable[[Mapping[str, Range], Sequence[tuple[Values, float | None]], int], list[dict[str, Any]]]
"""(ranges, settings tried and their values, count) → settings to try."""


@dataclass(frozen=True)
class Trial:
    """Settings of an agent that are tried on all sequences and tuning seeds."""

    agent: str
    values: dict[str, Any]


class _Saved(Settings):
    """``search.json``."""

    version: Annotated[int, Field(ge=1, le=1)]
    ranges: dict[str, dict[str, Range]]
    trials: tuple[Trial, ...]


class Search:
    """A search over the ranges of a plan.

    Attributes:
        trials: All trials so far.
    """

    def __init__(self, plan: Plan, folder: Path) -> None:
        """Read the trials that are there.

        Raises:
            UserError: The plan has no ranges, no tuning seeds, or grids; or the folder holds another search.
        """
        self._plan, self._folder = plan, folder
        self._ranges = {agent: ranges for agent in plan.agents if (ranges := plan.ranges_of(agent))}
        _check_plan(plan, list(self._ranges))
        self._seeds = plan.tuning_seeds or ()
        self._failed: list[JobState] = []
        self._resolved: dict[str, list[Setting]] = {}  # resolving a recipe takes milliseconds
        self.trials: list[Trial] = []
        path = folder / SEARCH
        if path.exists():
            saved = validated(_Saved, read_json(path), str(path))
            if saved.ranges != self._ranges:
                raise UserError(
                    f"'{folder}' holds a search over other ranges than those of the plan (choose a new --out)"
                )
            self.trials = list(saved.trials)

    def examples(self) -> Manifest:
        """Return runs of every choice and of both ends of every range, each with the first value of the others.

        They show whether recipes are valid, and what runs need, before anything is written.

        Raises:
            UserError: A recipe is invalid, or has no normalised scores to compare; one message with all problems.
        """
        trials = [Trial(agent, values) for agent, ranges in self._ranges.items() for values in _examples(ranges)]
        lines: list[str] = []
        made = [attempt(lines, self._settings, trial) or [] for trial in trials]
        if lines:
            raise RecipeError(list(dict.fromkeys(lines)))
        by_name([setting for settings in made for setting in settings])
        found = self._manifest(trials)
        for name in found.settings:
            if not _normalised(found.config_of(name)):
                raise UserError(
                    f"--search compares normalised scores, and no game of {name} has them (give its tasks random_score "
                    "and reference_score)"
                )
        return found

    def run(self, engine: Engine, suggest: Suggest, *, trials: int, places: int, retries: int) -> None:
        """Run rounds of trials until each agent has as many as asked for, and print the best.

        Args:
            engine: Places the runs.
            suggest: Suggests settings.
            trials: Trials of each agent.
            places: Runs at a time; a round has about as many.
            retries: How often a run whose worker died is tried again.

        Raises:
            UserError: The folder is another sweep's, or another process runs it; or the engine cannot run here.
            RunError: Runs have failed, for example of settings that diverge; the others are finished.
            InterruptedRunError: A signal stopped the search; every run is saved.
        """
        size = max(1, places // (len(self._plan.sequences) * len(self._seeds)))
        with open_folder(self._folder, self._manifest(self.trials)):
            for agent in self._ranges:
                self._finish(agent, engine, retries)
                while (left := trials - len(self._of(agent))) > 0:
                    self._extend(agent, suggest, min(size, left))
                    self._finish(agent, engine, retries)
        print(self.summary(), flush=True)
        if self._failed:
            raise RunError(failed_text(self._failed, len(self._manifest(self.trials).runs)))

    def summary(self) -> str:
        """Return the best trials of each agent, and how to report the best one."""
        lines = []
        for agent in self._ranges:
            known = [(value, trial) for trial in self._of(agent) if (value := self._value(trial)) is not None]
            known.sort(key=lambda one: -one[0])
            rows = [["ACC", "settings"], *([score_text(v), _text(one.values)] for v, one in known[:_BEST_SHOWN])]
            lines += [f"{agent}: {len(known)} trials on seeds {_listed(self._seeds)}", *aligned(rows)]
            if known:
                options = " ".join(f"--set {key}={toml(value)}" for key, value in known[0][1].values.items())
                lines.append(
                    f"to report it on seeds {_listed(self._plan.seeds)}: sweep PLAN --agents {agent} {options}"
                )
        return "\n".join(lines)

    def _of(self, agent: str) -> list[Trial]:
        return [trial for trial in self.trials if trial.agent == agent]

    def _extend(self, agent: str, suggest: Suggest, count: int) -> None:
        """Add trials; they are written before they run."""
        tried = [(trial.values, self._value(trial)) for trial in self._of(agent)]
        new = [Trial(agent, values) for values in suggest(self._ranges[agent], tried, count)]
        self._manifest(new)  # first: values that a recipe refuses would be in the way of every later search
        self.trials += new
        ranges = {name: {k: one.model_dump() for k, one in own.items()} for name, own in self._ranges.items()}
        saved = {"version": 1, "ranges": ranges, "trials": [asdict(trial) for trial in self.trials]}
        atomic.replace_text(self._folder / SEARCH, json.dumps(saved, indent=1) + "\n")
        save_manifest(self._folder, self._manifest(self.trials))
        for trial in new:
            print(f"try {agent} with {_text(trial.values)}", flush=True)

    def _finish(self, agent: str, engine: Engine, retries: int) -> None:
        """Run what is not finished of an agent's trials."""
        manifest = self._manifest(self._of(agent))
        known = {one.job.name for one in self._failed}
        left = [run for run in manifest.runs if run.name not in known]
        states = run_jobs(
            self._folder, Manifest(manifest.settings, tuple(left), manifest.threads), engine, retries=retries
        )
        self._failed += [one for one in states if one.state == "failed"]

    def _manifest(self, trials: Sequence[Trial]) -> Manifest:
        settings = {one.name: one for trial in trials for one in self._settings(trial)}
        runs = tuple(PlannedRun(name, seed) for name in settings for seed in self._seeds)
        return Manifest(settings, runs, self._plan.threads)

    def _settings(self, trial: Trial) -> list[Setting]:
        key = f"{trial.agent} {_text(trial.values)}"
        if key not in self._resolved:
            values, plan = {**self._plan.fixed_for(trial.agent), **trial.values}, self._plan
            made = [make_setting(plan, one, trial.agent, values, list(trial.values)) for one in plan.sequences]
            self._resolved[key] = made
        return self._resolved[key]

    def _value(self, trial: Trial) -> float | None:
        """Return the mean ACC of a trial's runs; None unless all are finished and scored."""
        manifest = self._manifest([trial])
        if len(finished_runs(self._folder, manifest)) < len(manifest.runs):
            return None
        value = float(np.mean([_acc(self._folder / run.name, manifest.config(run)) for run in manifest.runs]))
        return value if np.isfinite(value) else None


def _examples(ranges: Mapping[str, Range]) -> Iterator[dict[str, Any]]:
    """Yield settings in which every end of a range and every choice is once, each different from the others."""
    values = {key: one.choices or (one.low, one.high) for key, one in ranges.items()}
    first = {key: of_key[0] for key, of_key in values.items()}
    yield first
    for key, of_key in values.items():
        yield from ({**first, key: value} for value in of_key[1:])


def _check_plan(plan: Plan, searched: Sequence[str]) -> None:
    if not searched:
        raise UserError(
            "--search without ranges: expected some in the plan, such as [search] with "
            '"method.strength" = {low = 1.0, high = 1e4, log = true}'
        )
    if plan.tuning_seeds is None:
        raise UserError("--search without tuning seeds: expected tuning_seeds in the plan, or --tuning-seeds 100-102")
    if varied := [key for agent in searched for key in plan.varied_by(agent)]:
        raise UserError(
            f"--search with a grid of {varied[0]}: expected one or the other (give it as a range with choices)"
        )


def _normalised(config: RunConfig) -> list[int]:
    return [index for index, task in enumerate(config.tasks) if task.has_normalisers]


def _acc(run: Path, config: RunConfig) -> float:
    """Return the mean normalised score at the end of a run."""
    matrix, _ = select_columns(load_scores(run).after_normalised, config.visits, _normalised(config))
    return metrics.average_performance(matrix)


def _text(values: Values) -> str:
    return ", ".join(f"{key} = {toml(value)}" for key, value in values.items())


def _listed(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))
