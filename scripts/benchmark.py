"""Measure what learning costs here: how fast, how much memory, how far from what the machine could do at all.

    python scripts/benchmark.py speed --out speed.json
    python scripts/benchmark.py cost --agents blip ewc
    python scripts/benchmark.py environments | tasks | widths | fisher | minatar
    python scripts/benchmark.py profile --device cuda

speed times emulator, inference and update alone, blip-rl's agents, and stable-baselines3 with the same network and PPO
numbers over its own environments and over EnvPool's, where that is installed. cost says what a method adds to an
update, step by step beside fine-tuning. environments, tasks, widths and fisher say how cost grows with environments,
with tasks consolidated, with the network's width and with samples of the Fisher; minatar compares how its games are
stepped; profile says which operators an update consists of.

All that is compared is measured in one process and takes turns, so that a machine that slows down slows all of it; read
ratios, which are taken round by round, and look at the rounds. blip-rl's agents are those of the shipped recipes but
for the scale and shift per task, which stable-baselines3's network lacks (--as-shipped: with them); those that have a
method are measured after a first task of one iteration, with bits already frozen. A step is one decision of one
environment. Run it on an idle machine: torch gets --threads, but emulators take the cores they find (taskset limits
both).
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import torch
from _benchmark import cost, fisher, minatar, operators, speed
from _benchmark.growth import ENVIRONMENTS, TASKS, WIDTHS
from _measure import add_common_options, check_device, provenance, show

from blip_rl.errors import UserError

VERBS: dict[str, tuple[Any, int, str]] = {
    "speed": (speed, 5, "steps per second, against the machine's limit and against stable-baselines3"),
    "cost": (cost, 200, "what a method adds to an update, step by step beside fine-tuning"),
    "environments": (ENVIRONMENTS, 3, "with more games at a time"),
    "tasks": (TASKS, 5, "with more tasks consolidated"),
    "widths": (WIDTHS, 3, "with a wider network"),
    "fisher": (fisher, 3, "the Fisher information with more samples"),
    "minatar": (minatar, 3, "MinAtar's games, against a Gymnasium environment for each copy"),
    "profile": (operators, 3, "operators of one update"),
}
"""Name → what measures, rounds unless asked otherwise, what it is."""


def main() -> None:
    """Measure, print tables, write JSON."""
    options = _options()
    torch.set_num_threads(options.threads)
    settings = {key: value for key, value in vars(options).items() if key != "out"}
    results = {**provenance(), "device": _device_name(options.device), "settings": settings}
    verb = VERBS[options.verb][0]
    results |= verb.measure(options)
    show(results, verb.report(results), options.out)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, (verb, repeats, description) in VERBS.items():
        own = verbs.add_parser(name, help=description, description=description)
        own.add_argument("--game", default="boxing", help="Atari game, as blip-rl train knows it (%(default)s)")
        own.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change all recipes")
        own.add_argument("--as-shipped", action="store_true", help="with the recipes' scale and shift per task")
        own.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N (%(default)s)")
        verb.add_options(own)
        add_common_options(own, repeats)
    options = parser.parse_args()
    try:
        check_device(options.device)
        VERBS[options.verb][0].check(options)
    except UserError as error:
        print(f"benchmark.py: error: {error}", file=sys.stderr)
        sys.exit(2)
    return options


def _device_name(device: str) -> str:
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu"


if __name__ == "__main__":
    main()
