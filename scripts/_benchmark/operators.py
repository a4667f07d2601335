"""Which operators of torch an update spends its time in, by torch.profiler."""

from __future__ import annotations

import argparse
import statistics
from contextlib import ExitStack
from typing import Any

from _measure import cell, markdown_table, positive_int
from torch.profiler import ProfilerActivity, profile

from _benchmark.contestants import Contestant, build, recipe


def add_options(parser: argparse.ArgumentParser) -> None:
    """What else this verb can be asked."""
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
    """Self time of every operator in one update, on the device that does the work."""
    agent, on_gpu = contestant.agent, contestant.agent.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    profiler, train = profile(activities=activities, acc_events=True), agent.train

    def profiled() -> None:
        contestant.wait()
        with profiler:
            train()
            contestant.wait()

    agent.train = profiled  # type: ignore[method-assign]
    try:
        seconds = contestant.learn(1).update_seconds
    finally:
        del agent.train
    kind = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    events = [(event.key, event.count, getattr(event, kind) / 1e6) for event in profiler.key_averages()]
    total = sum(time for _, _, time in events)
    longest = sorted(events, key=lambda event: -event[2])
    return {
        "profiled_update_seconds": seconds,
        "total_seconds": total,
        "operators": [{"name": n, "calls": c, "seconds": t, "share": t / total if total else 0} for n, c, t in longest],
    }


def report(results: dict[str, Any]) -> str:
    """For each agent a table of its longest operators."""
    return "\n\n".join(_table(agent, found, results["rows"]) for agent, found in results["operators"].items())


def _table(agent: str, found: dict[str, Any], count: int) -> str:
    shown, left = found["operators"][:count], found["operators"][count:]
    rows = [
        [f"`{one['name']}`", str(one["calls"]), cell(1e3 * one["seconds"], ".1f"), f"{100 * one['share']:.1f} %"]
        for one in shown
    ]
    rest = [f"{len(left)} others", str(sum(one["calls"] for one in left))]
    rest += [cell(1e3 * sum(one["seconds"] for one in left), ".1f"), f"{100 * sum(one['share'] for one in left):.1f} %"]
    head = f"One update of `{agent}`, second task: {found['update_seconds']:.2f} s, profiled "
    head += f"{found['profiled_update_seconds']:.2f} s, of which {found['total_seconds']:.2f} s in operators."
    return f"{head}\n\n" + markdown_table(["operator", "calls", "self time, ms", "share"], [*rows, rest])
