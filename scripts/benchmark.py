"""Measure the cost of training on this machine: speed, memory, and the distance from the machine's limit.

    python scripts/benchmark.py speed --out speed.json
    python scripts/benchmark.py cost --agents blip ewc
    python scripts/benchmark.py environments | tasks | widths | fisher | minatar
    python scripts/benchmark.py profile --device cuda

speed times emulator, inference and update alone, blip-rl's agents, and stable-baselines3 with the same network and PPO
numbers over its own environments and over EnvPool's, if that is installed. cost compares optimizer steps of a method
with those of fine-tuning. environments, tasks, widths and fisher show how the cost grows with the number of
environments, of consolidated tasks, the width of the network and the samples of the Fisher; minatar compares how its
games are stepped; profile lists the operators of an update.

Everything that is compared is measured in turn in one process, so that a machine that slows down affects all of it.
Compare ratios, which are computed per round, and check the rounds. blip-rl's agents use the shipped recipes without the
scale and shift per task, which stable-baselines3's network lacks (--as-shipped: with them); methods are measured after
a first task of one iteration, with bits already frozen. A step is one decision of one environment. Run it on an idle
machine: torch uses --threads, but emulators use all cores (taskset limits both).
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
    "cost": (cost, 200, "optimizer steps of a method, compared with those of fine-tuning"),
    "environments": (ENVIRONMENTS, 3, "with more environments"),
    "tasks": (TASKS, 5, "with more consolidated tasks"),
    "widths": (WIDTHS, 3, "with a wider network"),
    "fisher": (fisher, 3, "the Fisher information with more samples"),
    "minatar": (minatar, 3, "MinAtar's games, against a Gymnasium environment for each copy"),
    "profile": (operators, 3, "operators of one update"),
}
"""Name → what measures, default number of rounds, description."""


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
