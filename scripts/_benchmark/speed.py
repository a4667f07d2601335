"""How fast training is: against the machine's own limit, and against stable-baselines3."""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from _measure import cell, markdown_table, positive_int, run_alone
from _stock_sb3 import check_game

from _benchmark.contestants import (
    RIVALS,
    Contestant,
    Lap,
    build,
    check_alike,
    gpu_peak_mb,
    missing,
    recipe,
)
from _benchmark.stages import EMULATOR, IN_TURN, INFERENCE, SHARES, SIDE_BY_SIDE, UPDATE, limits, open_stages, shares

PLAIN, _STOCK = "finetune", "stock"
LIMITS = (EMULATOR, INFERENCE, UPDATE, IN_TURN, SIDE_BY_SIDE)
_BY_ITSELF = (EMULATOR, INFERENCE)  # the update alone is part of every iteration of the plain agent
Rounds = list[dict[str, Lap]]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    parser.add_argument("--agents", nargs="+", default=[PLAIN, "blip"], metavar="NAME", help="recipes to measure")
    parser.add_argument(
        "--rivals", nargs="*", choices=tuple(RIVALS), default=list(RIVALS), help="default: all that are installed"
    )
    parser.add_argument("--updates", type=positive_int, default=1, help="PPO iterations timed at once (%(default)s)")
    parser.add_argument("--only", metavar="NAME", help="build one contestant alone and measure its memory")
    parser.add_argument(
        "--memory",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="run each contestant once more, in a process of its own, for its peak memory",
    )
    parser.add_argument(
        "--shares", action=argparse.BooleanOptionalAction, default=True, help="measure where the time goes"
    )


def check(options: argparse.Namespace) -> None:
    """Find mistakes before anything is built.

    Raises:
        UserError: an agent, a game or a change that cannot be had.
    """
    for agent in (PLAIN, *options.agents):
        config = recipe(agent, options)
    check_game(config)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All contestants and the parts alone, in turn."""
    if options.only:
        return {"contestants": {options.only: _alone(options.only, options)}}
    absent = {name: reason for name in options.rivals if (reason := missing(name))}
    agents = list(dict.fromkeys([PLAIN, *options.agents]))
    names = [*(name for name in options.rivals if name not in absent), *agents]
    memory = {name: _memory(name) if options.memory else {} for name in names}
    with ExitStack() as stack:
        contestants = {name: build(name, options, stack) for name in names}
        check_alike(contestants)
        stages = open_stages(recipe(PLAIN, options), contestants[PLAIN], stack)
        runners: dict[str, Callable[[int], Lap]] = {EMULATOR: stages.emulate, INFERENCE: stages.infer}
        runners |= {name: contestant.learn for name, contestant in contestants.items()}
        rounds = _race(runners, options)
        return {
            "missing": absent,
            "limits": _limits(rounds),
            "contestants": {
                name: _figures(name, contestant, rounds) | memory[name] for name, contestant in contestants.items()
            },
            "shares": {n: shares(c, options.updates) for n, c in contestants.items()} if options.shares else {},
        }


def _memory(name: str) -> dict[str, Any]:
    """Peaks of a contestant in a process of its own: what the others hold does not count."""
    print(f"memory of {name} …", file=sys.stderr)
    return run_alone("--only", name)["contestants"][name]


def _alone(name: str, options: argparse.Namespace) -> dict[str, Any]:
    with ExitStack() as stack:
        contestant = build(name, options, stack)
        contestant.learn(1)
        return {"peak_rss_mb": contestant.peak_rss_mb(), "gpu_peak_mb": gpu_peak_mb(options.device)}


def _race(runners: dict[str, Callable[[int], Lap]], options: argparse.Namespace) -> Rounds:
    """Everything once in each round; every round begins with another one."""
    names, rounds = list(runners), []
    for turn in range(options.repeats):
        first = turn % len(names)
        laps = {name: runners[name](options.updates) for name in names[first:] + names[:first]}
        rounds.append(laps)
        shown = ", ".join(f"{name} {laps[name].steps / laps[name].seconds:.0f}" for name in names)
        print(f"round {turn + 1} of {options.repeats}: {shown} steps/s", file=sys.stderr)
    return rounds


def _limits(rounds: Rounds) -> dict[str, Any]:
    each = [limits(laps[EMULATOR], laps[INFERENCE], laps[PLAIN]) for laps in rounds]
    found = {name: _median([one[name] for one in each]) for name in LIMITS}
    for name in _BY_ITSELF:
        found[name]["cpu_seconds_per_1000_steps"] = _cpu(rounds, name)
    return found


def _figures(name: str, contestant: Contestant, rounds: Rounds) -> dict[str, Any]:
    """Medians; things are compared round by round, within which the machine was the same."""
    each = [limits(laps[EMULATOR], laps[INFERENCE], laps[PLAIN]) for laps in rounds]
    speeds = [_speed(laps[name]) for laps in rounds]
    state = contestant.state_bytes()
    return {
        "title": RIVALS.get(name, f"blip-rl {name}, second task"),
        **_median(speeds),
        "cpu_seconds_per_1000_steps": _cpu(rounds, name),
        "update_share": statistics.median(laps[name].update_seconds / laps[name].seconds for laps in rounds),
        "ratio_to_stock": _ratio(speeds, [_speed(laps[_STOCK]) for laps in rounds] if _STOCK in rounds[0] else None),
        "percent_of_limit": {
            limit: 100 * _ratio(speeds, [one[limit] for one in each]) for limit in (IN_TURN, SIDE_BY_SIDE)
        },
        "slowdown_percent": 100 * (_ratio([_speed(laps[PLAIN]) for laps in rounds], speeds) - 1),
        "consolidation": contestant.consolidation,
        "consolidation_seconds": contestant.consolidation_seconds,
        "state_bytes_per_parameter": None if state is None else state / contestant.trunk_parameters(),
    }


def _median(speeds: list[float]) -> dict[str, Any]:
    return {"steps_per_second": statistics.median(speeds), "steps_per_second_all": speeds}


def _speed(lap: Lap) -> float:
    return lap.steps / lap.seconds


def _cpu(rounds: Rounds, name: str) -> float:
    return statistics.median(1000 * laps[name].cpu_seconds / laps[name].steps for laps in rounds)


def _ratio(above: list[float], below: list[float] | None) -> float | None:
    return None if below is None else statistics.median(a / b for a, b in zip(above, below, strict=True))


def report(results: dict[str, Any]) -> str:
    """Tables of speeds, of what methods keep, and of shares."""
    if "limits" not in results:
        return memory_table(results["contestants"])
    parts = [_speed_table(results), _method_table(results)]
    if found := results["shares"]:
        rows = [[part, *(f"{100 * found[name][part]:.1f} %" for name in found)] for part in SHARES]
        parts.append(markdown_table(["share of training time", *(_title(results, name) for name in found)], rows))
        if results["device"] != "cpu":
            parts.append(
                "An update recorded as a CUDA graph is one piece: its optimizer and method are in its first part."
            )
    parts += [f"{RIVALS[name]}: {reason}" for name, reason in results["missing"].items()]
    return "\n\n".join(parts)


def memory_table(contestants: dict[str, dict[str, Any]]) -> str:
    """What was measured of contestants in processes of their own."""
    rows = [[name, cell(c["peak_rss_mb"]), cell(c["gpu_peak_mb"])] for name, c in contestants.items()]
    return markdown_table(["", "peak memory, MB", "GPU memory, MB"], rows)


def _speed_table(results: dict[str, Any]) -> str:
    head = ["", "steps/s, median", "each round", "CPU s per 1000 steps", "× stock", "slower than fine-tune, %"]
    head += ["% of limit, one after another", "% of limit, side by side", "peak memory, MB", "GPU memory, MB"]
    rows = [[name, *_speeds(found), *["–"] * 6] for name, found in results["limits"].items()]
    for name, found in results["contestants"].items():
        own = name not in RIVALS
        percents = [cell(value, ".0f") for value in found["percent_of_limit"].values()]
        rows.append(
            [
                found["title"],
                *_speeds(found),
                cell(found["ratio_to_stock"], ".2f"),
                cell(found["slowdown_percent"] if own and name != PLAIN else None, "+.1f"),
                *(percents if own else ["–", "–"]),
                cell(found.get("peak_rss_mb")),
                cell(found.get("gpu_peak_mb")),
            ]
        )
    return markdown_table(head, rows)


def _speeds(found: dict[str, Any]) -> list[str]:
    return [
        cell(found["steps_per_second"]),
        " ".join(cell(value) for value in found["steps_per_second_all"]),
        cell(found.get("cpu_seconds_per_1000_steps"), ".2f"),
    ]


def _method_table(results: dict[str, Any]) -> str:
    rows = [
        [found["title"], cell(found["state_bytes_per_parameter"], ".1f"), cell(found["consolidation_seconds"], ".1f")]
        for name, found in results["contestants"].items()
        if name not in RIVALS
    ]
    return markdown_table(["agent", "bytes kept per trunk parameter", "end of a task, s"], rows)


def _title(results: dict[str, Any], name: str) -> str:
    return results["contestants"][name]["title"]
