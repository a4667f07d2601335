"""Which operators of torch an update spends its time in, by torch.profiler."""

from __future__ import annotations

import argparse
import statistics
import time
from contextlib import ExitStack
from typing import Any

from _measure import cell, markdown_table, positive_int
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from _benchmark.contestants import Contestant, build, recipe

_LONGEST_NAME = 70


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    parser.add_argument("--agents", nargs="+", default=["finetune", "blip"], metavar="NAME", help="recipes to profile")
    parser.add_argument(
        "--rows", type=positive_int, default=12, help="operators shown, the longest first (%(default)s)"
    )


def check(options: argparse.Namespace) -> None:
    """Find mistakes before anything is built.

    Raises:
        UserError: an agent, a game or a change that cannot be had.
    """
    for agent in options.agents:
        recipe(agent, options)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Profile one update of each agent in its second task, between updates that are only timed."""
    found = {}
    for agent in options.agents:
        with ExitStack() as stack:
            contestant = build(agent, options, stack)
            plain = statistics.median(contestant.learn(1).update_seconds for _ in range(options.repeats))
            found[agent] = {"update_seconds": plain, **_profile(contestant)}
    return {"rows": options.rows, "operators": found}


def _profile(contestant: Contestant) -> dict[str, Any]:
    """Self time of everything that one update runs on the device that does the work: operators, or a GPU's kernels."""
    agent, on_gpu = contestant.agent, contestant.agent.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities, acc_events=True):  # the first one in a process takes seconds to begin
        pass
    profiler, train, seconds = profile(activities=activities, acc_events=True), agent.train, []

    def profiled() -> None:
        contestant.wait()
        with profiler:
            begun = time.perf_counter()
            train()
            contestant.wait()
            seconds.append(time.perf_counter() - begun)

    agent.train = profiled  # type: ignore[method-assign]
    try:
        contestant.learn(1)
    finally:
        del agent.train
    operators = _self_times(profiler, on_gpu)
    total = sum(one["seconds"] for one in operators)
    for one in operators:
        one["share"] = one["seconds"] / total
    return {"profiled_update_seconds": seconds[0], "total_seconds": total, "operators": operators}


def _self_times(profiler: profile, on_gpu: bool) -> list[dict[str, Any]]:
    """The longest first. A GPU's time is told by its kernels: an operator has it too, and would count it twice."""
    where, kind = (DeviceType.CUDA, "self_device_time_total") if on_gpu else (DeviceType.CPU, "self_cpu_time_total")
    events = [event for event in profiler.key_averages() if event.device_type == where and not event.is_user_annotation]
    found = [{"name": event.key, "calls": event.count, "seconds": getattr(event, kind) / 1e6} for event in events]
    return sorted((one for one in found if one["seconds"] > 0), key=lambda one: -one["seconds"])


def report(results: dict[str, Any]) -> str:
    """For each agent a table of its longest operators."""
    return "\n\n".join(_table(agent, found, results["rows"]) for agent, found in results["operators"].items())


def _table(agent: str, found: dict[str, Any], count: int) -> str:
    shown, left = found["operators"][:count], found["operators"][count:]
    rows = [
        [
            f"`{_short(one['name'])}`",
            str(one["calls"]),
            cell(1e3 * one["seconds"], ".1f"),
            f"{100 * one['share']:.1f} %",
        ]
        for one in shown
    ]
    rest = [f"{len(left)} others", str(sum(one["calls"] for one in left))]
    rest += [cell(1e3 * sum(one["seconds"] for one in left), ".1f"), f"{100 * sum(one['share'] for one in left):.1f} %"]
    head = f"One update of `{agent}`, second task: {found['update_seconds']:.2f} s, profiled "
    head += f"{found['profiled_update_seconds']:.2f} s, of which {found['total_seconds']:.2f} s in operators."
    return f"{head}\n\n" + markdown_table(["operator", "calls", "self time, ms", "share"], [*rows, rest])


def _short(name: str) -> str:
    """Kernels are named by their whole templates; a bar would end the cell."""
    name = name.removeprefix("void ").replace("|", "/").replace("`", "'")
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"
