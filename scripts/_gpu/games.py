"""A real run: agents learn a sequence at the same time, as many steps a game as the measured rate allows."""

from __future__ import annotations

import argparse
import csv
import statistics
import subprocess
import sys
import tarfile
import time
from pathlib import Path

from _measure import without_paths

from _gpu.results import Results, step_options
from blip_rl.recipes import resolve
from blip_rl.shell import shell_command

_SCORES = 0.30  # of the time go into evaluations
_AT_ONCE = 1.1  # of the rate of one run alone, two together have: the emulator is the limit (docs/gpu.md)
_AFTER = 12.0  # seconds for archives; report and film are made if the runs have left time for them
_KEPT = (
    "config.toml",
    "command.txt",
    "environment.json",
    "scores.csv",
    "returns.csv",
    "bits.csv",
    "plasticity.csv",
    "speed.csv",
)


def main() -> None:
    """Train the agents, write report and video, and archive tables, page and video."""
    options = step_options(__doc__.splitlines()[0])
    results = Results(options.out, options.seconds)
    folder = options.out.parent / "games"
    training = max(results.seconds_left() - _AFTER, 1.0)
    games = [task.name for task in resolve(options.games, options.agents[0]).tasks]
    rate = _AT_ONCE * options.rate / len(options.agents)
    steps = options.steps or int(training * (1 - _SCORES) * rate / len(games)) // 1000 * 1000
    results.put("games", games)
    results.put("steps_per_game", steps)
    if steps < 1:
        return
    agents = {Path(agent).stem: agent for agent in options.agents}
    runs = [folder / name for name in agents]
    commands = {name: _command(folder / name, agent, steps, options) for name, agent in agents.items()}
    results.put(
        "commands", {name: shell_command("blip-rl", *without_paths(command[3:])) for name, command in commands.items()}
    )
    begun = time.monotonic()
    processes = {name: _start(folder / f"{name}.log", command) for name, command in commands.items()}
    for name, process in processes.items():
        results.put(f"{name}_exit", _wait(process, begun + training - time.monotonic()))
    results.put("seconds", time.monotonic() - begun)
    results.put("scores", {run.name: _final_scores(run) for run in runs})
    _pack(runs, folder, options.archive)
    for run in runs:
        _pack_last_stage(run, options.archive.with_name(f"{run.name}-checkpoint.tar.gz"))
    _show(runs, folder, results)
    _pack(runs, folder, options.archive)


def _start(log: Path, command: list[str]) -> subprocess.Popen[bytes]:
    """Start a run; its messages, with the times of evaluations and of distilling, go to a file."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        return subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)


def _command(run: Path, agent: str, steps: int, options: argparse.Namespace) -> list[str]:
    own = [
        "evaluation.actions=stochastic",
        f"evaluation.every_steps={max(1, steps // 2)}",
        "evaluation.episodes=10",
        *options.set,
    ]
    settings = [part for change in own for part in ("--set", change)]
    asked = ["--games", options.games, "--agent", agent, "--steps", str(steps), "--seed", str(options.seed)]
    return [
        sys.executable,
        "-P",
        "-m",
        "blip_rl",
        "train",
        *asked,
        "--device",
        options.device,
        "--threads",
        "1",
        "--out",
        str(run),
        *settings,
    ]


def _wait(process: subprocess.Popen[bytes], seconds: float) -> int:
    """Exit code; a run that needs longer is asked to save and end."""
    try:
        return process.wait(max(seconds, 1))
    except subprocess.TimeoutExpired:
        process.terminate()
        return process.wait()


def _final_scores(run: Path) -> dict[str, dict[str, float]]:
    """Number of games learned → game → mean raw return at the end of that stage."""
    found: dict[str, dict[str, list[float]]] = {}
    try:
        with (run / "scores.csv").open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                if row["phase"] == "after":
                    found.setdefault(row["stage"], {}).setdefault(row["task"], []).append(float(row["return"]))
    except OSError:
        return {}
    return {stage: {game: statistics.mean(values) for game, values in games.items()} for stage, games in found.items()}


def _show(runs: list[Path], folder: Path, results: Results) -> None:
    """The comparison page, and a film of the first two agents side by side, each if there is time."""
    paths = [str(run) for run in runs if run.exists()]  # a run that was refused has no folder
    asked = {
        "report": [*paths, "--out", str(folder)],
        "render": [*paths[:2], "--out", str(folder / "versus.gif"), "--seconds", "8"],  # takes two runs at the most
    }
    for name, words in asked.items():
        command = [sys.executable, "-P", "-m", "blip_rl", name, *words]
        try:
            done = subprocess.run(command, timeout=max(results.seconds_left(), 1), capture_output=True, text=True)
            results.put(name, {"exit": done.returncode, "output": (done.stdout + done.stderr)[-1000:]})
        except subprocess.TimeoutExpired:
            results.put(name, {"exit": None, "output": "no time left"})


def _pack(runs: list[Path], folder: Path, archive: Path) -> None:
    """Tables, page and film, without checkpoints; written under its name when it is complete."""
    new = archive.with_suffix(".new")
    with tarfile.open(new, "w:gz") as tar:
        for run in runs:
            for name in _KEPT:
                if (run / name).is_file():
                    tar.add(run / name, f"{run.name}/{name}")
        for file in (folder / "report.html", folder / "versus.gif", *(folder / f"{run.name}.log" for run in runs)):
            if file.is_file():
                tar.add(file, file.name)
    new.replace(archive)


def _pack_last_stage(run: Path, archive: Path) -> None:
    """The checkpoint of the last finished stage, a file of its own, as what a machine gives back may be limited."""
    stages = sorted((run / "checkpoints").glob("stage-*"))
    if stages:
        with tarfile.open(archive, "w:gz") as tar:
            tar.add(stages[-1], f"{run.name}/checkpoints/{stages[-1].name}")


if __name__ == "__main__":
    main()
