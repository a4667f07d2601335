"""How cost grows with one quantity: environments, consolidated tasks, or the width of the network."""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from _measure import cell, markdown_table, positive_int, run_alone

from _benchmark.contestants import Contestant, build_ours, freezing, gpu_peak_mb, recipe
from _benchmark.speed import memory_table
from blip_rl.config import RunConfig
from blip_rl.errors import UserError

_BATCH = 256  # steps in a minibatch, the same at every point; the recipes' is 250
_ANY_ROLLOUT = "ppo.minibatches=1"  # divides everything


@dataclass(frozen=True)
class Growth:
    """One quantity that is varied.

    Attributes:
        what: What it counts, as a table calls it.
        values: Its default values.
        agents: Recipes measured by default.
        iteration_steps: Steps of one PPO iteration, whatever the number is.
        memory: Whether to run each point once more, in a process of its own, for its peak memory.
        changes: (recipe, number) → changes of the recipe.
        tasks: Number → tasks that are consolidated before the measurement.
    """

    what: str
    values: tuple[int, ...]
    agents: tuple[str, ...]
    iteration_steps: int
    memory: bool
    changes: Callable[[RunConfig, int], list[str]]
    tasks: Callable[[int], int]

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        """Add the options of this verb."""
        parser.add_argument("--values", nargs="+", type=positive_int, default=list(self.values), metavar="N")
        parser.add_argument("--agents", nargs="+", default=list(self.agents), metavar="NAME", help="recipes to measure")
        parser.add_argument(
            "--iteration-steps",
            type=positive_int,
            default=self.iteration_steps,
            metavar="N",
            help=f"steps of one PPO iteration, a multiple of {_BATCH} and of the environments (%(default)s)",
        )
        parser.add_argument("--only", metavar="AGENT:N", help="measure one point alone, and its memory")
        parser.add_argument("--memory", action=argparse.BooleanOptionalAction, default=self.memory)

    def check(self, options: argparse.Namespace) -> None:
        """Find mistakes before anything is built.

        Raises:
            UserError: an agent, a game or a change that cannot be had.
        """
        for agent, value in _points(options):
            self._config(agent, value, options)

    def measure(self, options: argparse.Namespace) -> dict[str, Any]:
        """Speed at every point in turn, and its memory."""
        if options.only:
            agent, _, value = options.only.partition(":")
            with ExitStack() as stack:
                contestant = self._build(agent, int(value), options, stack)
                peaks = {"peak_rss_mb": contestant.peak_rss_mb(), "gpu_peak_mb": gpu_peak_mb(options.device)}
            return {"alone": {options.only: peaks}}
        points = _points(options)
        memory = [_memory(f"{agent}:{value}") if options.memory else {} for agent, value in points]
        with ExitStack() as stack:
            built = [self._build(agent, value, options, stack) for agent, value in points]
            speeds = _race(built, options.repeats)
            return {
                "what": self.what,
                "points": [
                    {"agent": agent, "value": value, **_figures(contestant, speed), **peak}
                    for (agent, value), contestant, speed, peak in zip(points, built, speeds, memory, strict=True)
                ],
            }

    def _build(self, agent: str, value: int, options: argparse.Namespace, stack: ExitStack) -> Contestant:
        print(f"building {agent} with {self.what} = {value} …", file=sys.stderr)
        return build_ours(self._config(agent, value, options), stack, self.tasks(value))

    def _config(self, agent: str, value: int, options: argparse.Namespace) -> RunConfig:
        whole = f"ppo.minibatches={max(1, options.iteration_steps // _BATCH)}"
        changes = [_ANY_ROLLOUT, *self.changes(recipe(agent, options, [_ANY_ROLLOUT]), value)]
        games = recipe(agent, options, changes).agent.ppo.environments
        if options.iteration_steps % games or options.iteration_steps % min(_BATCH, options.iteration_steps):
            raise UserError(
                f"--iteration-steps {options.iteration_steps}: expected a multiple of {_BATCH}, or less than that, and "
                f"of the environments, {games}"
            )
        return freezing(
            recipe(agent, options, [*changes, f"ppo.rollout_steps={options.iteration_steps // games}", whole])
        )

    def report(self, results: dict[str, Any]) -> str:
        """One row for each point."""
        if "alone" in results:
            return memory_table(results["alone"])
        head = ["agent", results["what"], "steps/s, median", "each round", "time of a step × the first's"]
        head += ["method's state, MB", "tasks' own weights, MB", "trunk parameters", "end of a task, s"]
        head += ["peak memory, MB", "GPU memory, MB"]
        first = {point["agent"]: point["steps_per_second"] for point in reversed(results["points"])}
        rows = [
            [
                point["agent"],
                str(point["value"]),
                cell(point["steps_per_second"]),
                " ".join(cell(value) for value in point["steps_per_second_all"]),
                cell(first[point["agent"]] / point["steps_per_second"], ".2f"),
                cell(point["state_bytes"] / 1e6, ".1f"),
                cell(point["task_bytes"] / 1e6, ".2f"),
                f"{point['trunk_parameters']:,}",
                cell(point["consolidation_seconds"], ".1f"),
                cell(point.get("peak_rss_mb")),
                cell(point.get("gpu_peak_mb")),
            ]
            for point in results["points"]
        ]
        return markdown_table(head, rows)


def _points(options: argparse.Namespace) -> list[tuple[str, int]]:
    return [(agent, value) for agent in options.agents for value in options.values]


def _memory(point: str) -> dict[str, Any]:
    """Peaks of one point in a process of its own."""
    print(f"memory of {point} …", file=sys.stderr)
    return run_alone("--only", point)["alone"][point]


def _race(built: list[Contestant], repeats: int) -> list[list[float]]:
    """Steps per second of each in each round; every round begins with another one."""
    speeds: list[list[float]] = [[] for _ in built]
    for turn in range(repeats):
        first = turn % len(built)
        for index in [*range(first, len(built)), *range(first)]:
            lap = built[index].learn(1)
            speeds[index].append(lap.steps / lap.seconds)
        print(f"round {turn + 1} of {repeats} done", file=sys.stderr)
    return speeds


def _figures(contestant: Contestant, speeds: list[float]) -> dict[str, Any]:
    return {
        "steps_per_second": statistics.median(speeds),
        "steps_per_second_all": speeds,
        "state_bytes": contestant.state_bytes(),
        "task_bytes": sum(parameter.nbytes for parameter in contestant.agent.policy.tasks.parameters()),
        "trunk_parameters": contestant.trunk_parameters(),
        "consolidation_seconds": contestant.consolidation_seconds,
    }


def _wider(config: RunConfig, times: int) -> list[str]:
    image = config.agent.trunk.image
    conv = [[channels * times, kernel, stride] for channels, kernel, stride in image.conv]
    return [f"trunk.image.conv={conv}", f"trunk.image.hidden={[units * times for units in image.hidden]}"]


ENVIRONMENTS = Growth(
    what="environments",
    values=(8, 16, 32, 64, 128, 256),
    agents=("finetune",),
    iteration_steps=2048,
    memory=True,
    changes=lambda _, value: [f"ppo.environments={value}"],
    tasks=lambda _: 0,
)
TASKS = Growth(
    what="tasks consolidated",
    values=(1, 2, 4, 8, 12),
    agents=("blip",),
    iteration_steps=512,
    memory=False,  # grows with what came before in the process, which is all there is to see: the state is counted
    changes=lambda _, __: [],
    tasks=lambda value: value,
)
WIDTHS = Growth(
    what="width of the trunk, ×",
    values=(1, 2, 4),
    agents=("finetune", "blip"),
    iteration_steps=256,
    memory=True,
    changes=_wider,
    tasks=lambda _: 1,
)
