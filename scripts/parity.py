"""Compare learning of blip-rl and stable-baselines3: the same games, network and hyperparameters.

    python scripts/parity.py --out runs/parity
    python scripts/parity.py --out runs/parity --show
    python scripts/parity.py --games boxing breakout --set "trunk.image.conv=[[16,8,4],[32,4,2]]" --out runs/small

Each run (agent, game, seed) writes one JSON file to --out. Existing runs are not repeated, so the study can be killed
at any time and continued with the same command; an unfinished run starts again. --only lets two processes share an
--out, and --show makes the tables and the picture of the finished runs.

blip-rl's agent is fine-tuning over one task, its network without a scale and shift per task (trunk.task_modulation).
Both play the same game (tests/test_parity.py plays whole games in both) through their own wrappers. These differ in:
where colours become grey, after or before the maximum of two frames (in Kung-Fu Master up to 15 of 255, in Space
Invaders nothing); 1 to 30 no-ops against blip-rl's 0 to 29; in games with a fire button, fire and the next action for a
decision each against fire for one frame; and after a lost life stable-baselines3 forgets the earlier frames, plays a
no-op and fires again before it asks the agent. Its learning rate is that of a rollout's end, blip-rl's that of its
beginning.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from _measure import check_device, positive_int, provenance
from _parity_report import draw, report
from _parity_runs import CONTESTANTS, run
from _stock_sb3 import check_game

from blip_rl.config import RunConfig
from blip_rl.errors import UserError
from blip_rl.recipes import resolve

GAMES = ("kung_fu_master", "space_invaders")
"""PPO improves on both within 500,000 steps; neither needs the fire button to start."""


def main() -> None:
    """Make the missing runs, then show all."""
    options = _options()
    torch.set_num_threads(options.threads)
    try:
        check_device(options.device)
        configs = _configs(options)
        if not options.show:
            options.out.mkdir(parents=True, exist_ok=True)
            _make_missing(options, configs)
        games = {game: _finished(options, configs, game) for game in options.games}
    except (UserError, OSError) as error:
        print(f"parity.py: error: {error}", file=sys.stderr)
        sys.exit(2)
    text = report(games)
    print(text)
    if any(runs for found in games.values() for runs in found.values()):
        (options.out / "parity.md").write_text(text + "\n", encoding="utf-8")
        draw(games, options.out / "parity.png")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--games", nargs="+", default=list(GAMES), metavar="GAME", help="Atari games (%(default)s)")
    parser.add_argument("--steps", default="500k", help="steps of each run (%(default)s)")
    parser.add_argument("--seeds", type=positive_int, default=3, help="seeds 0 to this less one (%(default)s)")
    parser.add_argument("--episodes", type=positive_int, default=30, help="games played after learning (%(default)s)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change the recipe of both")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (%(default)s)")
    parser.add_argument("--threads", type=positive_int, default=1, help="torch threads (%(default)s)")
    parser.add_argument("--only", choices=tuple(CONTESTANTS), help="make only this contestant's runs")
    parser.add_argument("--show", action="store_true", help="make no runs, show those that are there")
    parser.add_argument("--out", type=Path, default=Path("runs/parity"), metavar="FOLDER", help="(%(default)s)")
    return parser.parse_args()


def _configs(options: argparse.Namespace) -> dict[tuple[str, int], RunConfig]:
    """(game, seed) → recipe, in the order the runs are made."""
    changes = ["trunk.task_modulation=false", *options.set]
    configs = {}
    for seed in range(options.seeds):
        for game in options.games:
            config = resolve(game, "finetune", steps=options.steps, seed=seed, device=options.device, overrides=changes)
            check_game(config)
            configs[game, seed] = config
    return configs


def _make_missing(options: argparse.Namespace, configs: dict[tuple[str, int], RunConfig]) -> None:
    """Make one run after the other, agents in turn."""
    begun_with = provenance()  # of the loaded code: the checkout may change before a run is finished
    for (game, seed), config in configs.items():
        for name in [options.only] if options.only else CONTESTANTS:
            path = _path(options.out, name, game, seed)
            if _read(path, config, options) is None:
                print(f"{path.stem} …", file=sys.stderr, flush=True)
                figures = run(name, config, options.episodes, partial(_talk, path.stem))
                _write(path, begun_with | {"settings": _settings(config, options), **figures})
                _talk(path.stem, f"done, {figures['steps_per_second']:.0f} steps/s")


def _finished(
    options: argparse.Namespace, configs: dict[tuple[str, int], RunConfig], game: str
) -> dict[str, dict[int, dict[str, Any]]]:
    """Contestant → seed → finished run, of one game."""
    found: dict[str, dict[int, dict[str, Any]]] = {name: {} for name in CONTESTANTS}
    for name in CONTESTANTS:
        for seed in range(options.seeds):
            finished = _read(_path(options.out, name, game, seed), configs[game, seed], options)
            if finished is not None:
                found[name][seed] = finished
    return found


def _path(out: Path, name: str, game: str, seed: int) -> Path:
    return out / f"{game}-seed{seed}-{name}.json"


def _read(path: Path, config: RunConfig, options: argparse.Namespace) -> dict[str, Any] | None:
    """Read a finished run; None if there is none.

    Raises:
        UserError: it was made with other settings, or cannot be read.
    """
    try:
        finished: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        settings = finished["settings"]
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"'{path}' cannot be read: {error!r}; delete it to make its run again") from error
    wanted = _settings(config, options)
    if differing := [key for key in wanted if settings.get(key) != wanted[key]]:
        raise UserError(f"'{path}' was made with another {', '.join(differing)}: give these settings their own --out")
    return finished


def _settings(config: RunConfig, options: argparse.Namespace) -> dict[str, Any]:
    """Return the settings that determine a run, as JSON represents them."""
    decides = config.model_dump(mode="json", include={"seed", "agent", "tasks", "atari", "compute"})
    return {**decides, "episodes": options.episodes, "threads": options.threads, "device": options.device}


def _write(path: Path, results: dict[str, Any]) -> None:
    """Write atomically: a kill leaves no partial file."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_text(json.dumps(results, ensure_ascii=False) + "\n", encoding="utf-8")
    part.replace(path)


def _talk(run_name: str, text: str) -> None:
    print(f"{run_name}: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
