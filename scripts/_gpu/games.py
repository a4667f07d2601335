"""A real run: BLIP and fine-tuning learn three games at the same time, as many steps as the measured rate allows."""

from __future__ import annotations

import csv
import statistics
import subprocess
import sys
import tarfile
import time
from pathlib import Path

from _gpu.results import Results, step_options
from blip_rl.shell import shell_command

AGENTS = ("blip", "finetune")
GAMES = ("kungfu", "boxing", "spaceinvaders")
_SCORES = 0.30  # of the time go into evaluations
_AT_ONCE = 0.7  # of its rate alone a run has beside another one
_AFTER = 45.0  # seconds for report and film
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
    """Train both agents, write report and video, and archive tables, page and video."""
    options = step_options(__doc__.splitlines()[0])
    results = Results(options.out, options.seconds)
    folder = options.out.parent / "games"
    training = max(results.seconds_left() - _AFTER, 1.0)
    steps = options.steps or int(training * (1 - _SCORES) * _AT_ONCE * options.rate / len(GAMES)) // 1000 * 1000
    results.put("games", GAMES)
    results.put("steps_per_game", steps)
    if steps < 1:
        return
    runs = [folder / agent for agent in AGENTS]
    commands = {run.name: _command(run, steps, options.device, options.set) for run in runs}
    results.put("commands", {name: shell_command("blip-rl", *command[3:]) for name, command in commands.items()})
    begun = time.monotonic()
    processes = {name: subprocess.Popen(command) for name, command in commands.items()}
    for name, process in processes.items():
        results.put(f"{name}_exit", _wait(process, begun + training - time.monotonic()))
    results.put("seconds", time.monotonic() - begun)
    results.put("scores", {run.name: _final_scores(run) for run in runs})
    _pack(runs, folder, options.archive)
    _show(runs, folder, results)
    _pack(runs, folder, options.archive)


def _command(run: Path, steps: int, device: str, changes: list[str]) -> list[str]:
    own = [
        "evaluation.actions=stochastic",
        f"evaluation.every_steps={max(1, steps // 4)}",
        "evaluation.episodes=10",
        *changes,
    ]
    settings = [part for change in own for part in ("--set", change)]
    asked = ["--games", ",".join(GAMES), "--agent", run.name, "--steps", str(steps), "--device", device]
    return [sys.executable, "-m", "blip_rl", "train", *asked, "--threads", "1", "--out", str(run), "--quiet", *settings]


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
    """The comparison page and a film of both agents side by side, each if there is time."""
    paths = [str(run) for run in runs]
    asked = {
        "report": ["--out", str(folder)],
        "render": ["--out", str(folder / "versus.gif"), "--seconds", "8"],
    }
    for name, extra in asked.items():
        command = [sys.executable, "-m", "blip_rl", name, *paths, *extra]
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
        for file in (folder / "report.html", folder / "versus.gif"):
            if file.is_file():
                tar.add(file, file.name)
    new.replace(archive)


if __name__ == "__main__":
    main()
