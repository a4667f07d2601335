"""The cost of a method per optimizer step: steps of two agents, measured alternately.

Iterations take seconds, and within seconds the speed of a shared machine varies by more than a method costs. Two
consecutive steps take tenths of a second, and hundreds of pairs can be measured.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, cast

import numpy as np
from _measure import cell, markdown_table

from _benchmark.contestants import Contestant, build, recipe
from blip_rl.learner.ppo import ContinualPPO
from blip_rl.learner.rollout import Rollout

PLAIN = "finetune"
_WARM_UP = 4
_RESAMPLES = 10_000
_FEWEST_PAIRS = 10  # with fewer, a bootstrap interval is too narrow


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    parser.add_argument("--agents", nargs="+", default=["blip"], metavar="NAME", help="recipes to compare with plain")


def check(options: argparse.Namespace) -> None:
    """Check the options before anything is built.

    Raises:
        UserError: an unknown agent or game, or an invalid setting.
    """
    for agent in (PLAIN, *options.agents):
        recipe(agent, options)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Measure ``--repeats`` pairs of steps for each agent, in its second task, and fine-tuning."""
    found = {}
    with ExitStack() as stack:
        plain = build(PLAIN, options, stack)
        lap = plain.learn(1)
        for agent in options.agents:
            with ExitStack() as own:
                other = build(agent, options, own)
                pairs = _pairs(plain, other, options.repeats)
                print(f"{agent}: {len(pairs)} pairs", file=sys.stderr)
                found[agent] = _figures(pairs, lap.update_seconds / lap.seconds) | _kept(other)
    return {"costs": found}


def _pairs(plain: Contestant, other: Contestant, count: int) -> list[tuple[float, float]]:
    """Return the seconds of a step of each; which one is first alternates."""
    clocks = (_timed_steps(plain), _timed_steps(other))
    pairs = []
    for number in range(_WARM_UP + count):
        first = number % 2
        seconds = {turn: next(clocks[turn]) for turn in (first, 1 - first)}
        pairs.append((seconds[0], seconds[1]))
    return pairs[_WARM_UP:]


def _timed_steps(contestant: Contestant) -> Iterator[float]:
    """Take optimizer steps on the last rollout as ``train`` does; yield the seconds of each."""
    agent = cast(ContinualPPO, contestant.agent)
    agent.policy.set_training_mode(True)
    agent._current_progress_remaining = 1.0  # of a training just begun: its steps are the largest
    agent._update_learning_rate(agent.policy.optimizer)
    rollout = cast(Rollout, agent.rollout_buffer)
    captured = agent._captured_update(rollout)
    update, into = (agent._update, None) if captured is None else (captured, captured.batch)
    while True:
        batches = rollout.minibatches(agent.batch_size, into)
        for _ in range(rollout.buffer_size * rollout.n_envs // agent.batch_size):
            contestant.wait()
            begun = time.perf_counter()
            update(next(batches))
            contestant.wait()
            yield time.perf_counter() - begun


def _figures(pairs: list[tuple[float, float]], update_share: float) -> dict[str, Any]:
    """Return medians over pairs: [median, low, high] with a bootstrap interval from ten pairs on, [median] below.

    Training is slower by the cost of a step times the share of updates in training.
    """
    ratios = np.array([other / plain for plain, other in pairs])
    found = [np.median(ratios)]
    if len(ratios) >= _FEWEST_PAIRS:
        drawn = np.random.default_rng(0).choice(ratios, (_RESAMPLES, len(ratios)))
        found += [*np.percentile(np.median(drawn, axis=1), [2.5, 97.5])]
    percents = [100 * (float(ratio) - 1) for ratio in found]
    return {
        "pairs_seconds": pairs,
        "plain_step_seconds": statistics.median(plain for plain, _ in pairs),
        "step_seconds": statistics.median(other for _, other in pairs),
        "step_slower_percent": percents,
        "update_share": update_share,
        "training_slower_percent": [update_share * percent for percent in percents],
    }


def _kept(contestant: Contestant) -> dict[str, Any]:
    """Return the size of the method's state, and the duration of its last consolidation."""
    state = contestant.state_bytes()
    return {
        "state_bytes_per_parameter": None if state is None else state / contestant.trunk_parameters(),
        "consolidation_seconds": contestant.consolidation_seconds,
    }


def report(results: dict[str, Any]) -> str:
    """Return a row per agent."""
    head = ["agent", "pairs", "fine-tune's step, ms", "its step, ms", "slower, % (95 % bootstrap interval)"]
    head += ["share of updates, %", "whole training slower, % (95 % bootstrap interval)"]
    head += ["bytes kept per trunk parameter", "end of a task, s"]
    rows = [
        [
            agent,
            str(len(found["pairs_seconds"])),
            cell(1e3 * found["plain_step_seconds"], ".1f"),
            cell(1e3 * found["step_seconds"], ".1f"),
            _interval(found["step_slower_percent"]),
            cell(100 * found["update_share"], ".0f"),
            _interval(found["training_slower_percent"]),
            cell(found["state_bytes_per_parameter"], ".1f"),
            cell(found["consolidation_seconds"], ".1f"),
        ]
        for agent, found in results["costs"].items()
    ]
    return markdown_table(head, rows)


def _interval(percents: list[float]) -> str:
    middle, *ends = percents
    return f"{middle:+.1f}" + (f" ({ends[0]:+.1f} to {ends[1]:+.1f})" if ends else "")
