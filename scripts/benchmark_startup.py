"""Measure how long commands take to answer, and how long a training takes to reach its first step.

    python scripts/benchmark_startup.py --out startup.json
    python scripts/benchmark_startup.py --run runs/atari6-blip-seed0 --repeats 3

Every command runs in a new process, one after another, in ``--repeats`` rounds. The processor time of the process is
shown next to the elapsed time, because other load on the machine affects it far less. With --run, the commands that
show and evaluate that run are measured instead, on a copy of its folder.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _measure import add_common_options, cell, markdown_table, provenance, show

RECIPE = """agent_name = "blip"
seed = 0
[agent.method]
name = "blip"
[[tasks]]
name = "pong"
steps = 1000
random_score = 0.0
reference_score = 1.0
"""
SCORES = """env_steps,stage,phase,task,seed,return,length_steps,truncated,normalised,actions
1000,1,after,pong,1000003,0.5,9,0,0.5,greedy
"""
# A training that exits before its first rollout.
FIRST_STEP = """
import os, sys
from blip_rl.cli import main
def first_step(agent, *arguments, **options):
    os._exit(0)
class Waiting:
    def find_spec(self, name, path=None, target=None):
        if name == "blip_rl.run.autosave":
            sys.meta_path.remove(self)
            from blip_rl.learner.ppo import ContinualPPO
            ContinualPPO.collect_rollouts = first_step
sys.meta_path.insert(0, Waiting())
main()
"""


def main() -> None:
    """Measure, print a table, write JSON."""
    options = _options()
    settings = {key: str(v) if isinstance(v, Path) else v for key, v in vars(options).items() if key != "out"}
    results: dict[str, Any] = {**provenance(), "settings": settings}
    with tempfile.TemporaryDirectory(prefix="blip-rl-startup-") as name:
        folder = Path(name)
        _write_run(folder / "run")
        if options.run:
            shutil.copytree(options.run, folder / "copy")
        found: dict[str, list[tuple[float, float]]] = {}
        for number in range(options.repeats):
            commands = _of_a_run() if options.run else _commands(options, folder / f"new-{number}")
            for title, command in commands.items():
                print(f"{number + 1}/{options.repeats} {title} …", file=sys.stderr)
                found.setdefault(title, []).append(_measure(command, folder, options.threads))
    results["commands"] = {title: _summary(times) for title, times in found.items()}
    show(results, _report(results["commands"]), options.out)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--games", default="atari6", help="what the training learns (%(default)s)")
    parser.add_argument("--agent", default="blip", help="how it learns (%(default)s)")
    parser.add_argument(
        "--run", type=Path, metavar="RUN", help="measure the verbs that show and score this run instead"
    )
    add_common_options(parser, repeats=7)
    return parser.parse_args()


def _commands(options: argparse.Namespace, out: Path) -> dict[str, list[str]]:
    """Return the measured commands by their name in the table."""
    typed = ("--help", "train --help", "list", "inspect run", "report run", "evaluate .", "train --games kungfoo")
    train = ["train", "--games", options.games, "--agent", options.agent, "--out", str(out), "--quiet"]
    return {
        **{f"blip-rl {words}": ["-m", "blip_rl", *words.split()] for words in typed},
        f"blip-rl train --games {options.games} --agent {options.agent}, to its first step": ["-c", FIRST_STEP, *train],
    }


def _of_a_run() -> dict[str, list[str]]:
    """Return the commands that read a run, with their default options."""
    return {
        f"blip-rl {verb} RUN": ["-m", "blip_rl", verb, "copy"] for verb in ("inspect", "report", "render", "evaluate")
    }


def _measure(command: list[str], folder: Path, threads: int) -> tuple[float, float]:
    """Run a command; return its elapsed and processor seconds."""
    with tempfile.TemporaryFile() as errors:
        begun = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, *command],
            cwd=folder,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - begun
        process.returncode = os.waitstatus_to_exitcode(status)  # set here, because os.wait4 and not this object waited
        if process.returncode not in (0, 2):
            errors.seek(0)
            sys.exit(f"{command} ended with {process.returncode}: {errors.read().decode(errors='replace')}")
    return seconds, used.ru_utime + used.ru_stime


def _summary(times: list[tuple[float, float]]) -> dict[str, Any]:
    seconds, processor = zip(*times, strict=True)
    return {
        "seconds": statistics.median(seconds),
        "seconds_all": list(seconds),
        "processor_seconds": statistics.median(processor),
        "processor_seconds_all": list(processor),
    }


def _report(commands: dict[str, dict[str, Any]]) -> str:
    rows = [
        [
            f"`{title}`" if ", " not in title else title,
            cell(found["seconds"], ".2f"),
            cell(found["processor_seconds"], ".2f"),
            " ".join(cell(value, ".2f") for value in found["seconds_all"]),
        ]
        for title, found in commands.items()
    ]
    return markdown_table(["command", "seconds, median", "processor seconds, median", "seconds, each"], rows)


def _write_run(path: Path) -> None:
    """Write the text files of a run, for the commands that only read."""
    path.mkdir()
    (path / "config.toml").write_text(RECIPE, encoding="utf-8")
    (path / "scores.csv").write_text(SCORES, encoding="utf-8")


if __name__ == "__main__":
    main()
