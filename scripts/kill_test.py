"""Kill runs at random moments, resume them, and compare every byte with an uninterrupted run.

    python scripts/kill_test.py --cartpole 50 --atari 10 --out runs/kill-test --table kills.md

Each trial starts a run, waits until its folder has a recipe, and sends SIGKILL after a time drawn uniformly from the
duration of an uninterrupted run; then it resumes the run, in every other trial kills it once more in the same way, and
finishes it. A first kill that comes after the end is drawn again. scores.csv, returns.csv, bits.csv, plasticity.csv and
all files of all checkpoints are compared. Exit code 1 if any differ. A trial of CartPole takes about half a minute, one
of Atari about one.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from blip_rl.shell import shell_command
from blip_rl.storage.snapshot_names import snapshot_folders, snapshot_steps

TABLES = ("scores.csv", "returns.csv", "bits.csv", "plasticity.csv")
_KILLED = -9
_TOO_LATE = "its end"


@dataclass(frozen=True)
class Sequence:
    """The tasks of every trial: small, but with evaluations and snapshots in the middle of each task."""

    name: str
    games: str
    steps: str
    settings: tuple[str, ...]

    def command(self, agent: str, out: Path) -> list[str]:
        """Return the command of a new run."""
        changes = [part for setting in self.settings for part in ("--set", setting)]
        asked = ["--games", self.games, "--agent", agent, "--steps", self.steps, "--out", str(out), "--threads", "1"]
        return [sys.executable, "-P", "-m", "blip_rl", "train", *asked, "--quiet", *changes]


CARTPOLE = Sequence(
    "cartpole4", "cartpole4", "6k", ("evaluation.every_steps=2k", "checkpoint.every_steps=3k", "evaluation.episodes=2")
)
ATARI = Sequence(
    "pong, boxing",
    "pong,boxing",
    "4k",
    (
        "ppo.environments=4",
        "ppo.rollout_steps=64",
        "trunk.image.hidden=[64]",
        "method.fisher_samples=200",
        "evaluation.every_steps=2k",
        "checkpoint.every_steps=1k",
        "evaluation.episodes=1",
        "evaluation.max_episode_steps=200",
    ),
)


@dataclass(frozen=True)
class Trial:
    """One killed run: where each kill happened, and the files that differ in the end."""

    sequence: str
    met_at: tuple[str, ...]
    different: tuple[str, ...]


def main() -> None:
    """Run the trials and print the table."""
    options = _options()
    options.out.mkdir(parents=True)
    draw, trials = random.Random(options.seed), list[Trial]()
    for sequence, count in ((CARTPOLE, options.cartpole), (ATARI, options.atari)):
        if count:
            trials += _trials(sequence, count, options.agent, options.out, draw)
    text = table(trials)
    print(text)
    if options.table:
        options.table.write_text(text + "\n", encoding="utf-8")
    sys.exit(any(trial.different for trial in trials))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cartpole", type=int, default=50, metavar="N", help="trials over four CartPoles")
    parser.add_argument("--atari", type=int, default=10, metavar="N", help="trials over two Atari games")
    parser.add_argument("--agent", default="blip")
    parser.add_argument("--seed", type=int, default=0, help="of the moments, which also depend on the machine")
    parser.add_argument("--out", type=Path, required=True, help="new folder for the runs; equal ones are deleted")
    parser.add_argument("--table", type=Path, help="write the table here too")
    return parser.parse_args()


def _trials(sequence: Sequence, count: int, agent: str, out: Path, draw: random.Random) -> list[Trial]:
    whole = out / f"{sequence.name.replace(', ', '-')}-whole"
    seconds = _run_whole(sequence.command(agent, whole), whole)
    expected, trials = run_files(whole), list[Trial]()
    for number in range(1, count + 1):
        run = out / f"{whole.name.removesuffix('-whole')}-{number:02d}"
        met_at: tuple[str, ...] = (_TOO_LATE,)
        while met_at[0] == _TOO_LATE:
            shutil.rmtree(run, ignore_errors=True)
            delays = [draw.uniform(0, seconds) for _ in range(1 + number % 2)]
            met_at = _run_killed(sequence.command(agent, run), run, delays)
        found = run_files(run)
        different = tuple(name for name in {**expected, **found} if expected.get(name) != found.get(name))
        trials.append(Trial(sequence.name, met_at, different))
        print(f"{sequence.name} {number}/{count}: {', '.join(met_at)}: {', '.join(different) or 'equal'}", flush=True)
        if not different:
            shutil.rmtree(run)
    return trials


def _run_whole(command: list[str], run: Path) -> float:
    """Return the duration in seconds, from the moment when the folder has a recipe."""
    process = _start(command, run)
    begun = time.monotonic()
    if process.wait() != 0:
        sys.exit(f"failed: {shell_command(*command)}")
    return time.monotonic() - begun


def _run_killed(command: list[str], run: Path, delays: list[float]) -> tuple[str, ...]:
    """Run to the end with a kill after each delay; return where the kills happened."""
    met_at: list[str] = []
    for delay in delays:
        process = _start(command, run)
        time.sleep(delay)
        process.kill()
        if (code := process.wait()) != _KILLED:
            return (*met_at, _TOO_LATE if code == 0 else f"FAILED with code {code}")
        met_at.append(_place(run))
        if met_at[-1] == _TOO_LATE:
            return tuple(met_at)
        command = [sys.executable, "-P", "-m", "blip_rl", "train", "--resume", str(run), "--quiet"]
    if subprocess.run(command, check=False, env=_environment()).returncode != 0:
        met_at.append("FAILED to resume")
    return tuple(met_at)


def _start(command: list[str], run: Path) -> subprocess.Popen[bytes]:
    """Start a process and wait for its folder to have a recipe."""
    process = subprocess.Popen(command, env=_environment())
    while not (run / "config.toml").exists() and process.poll() is None:
        time.sleep(0.001)
    return process


def _environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def _place(run: Path) -> str:
    """Return the newest snapshot and what was being written."""
    folder = run / "checkpoints"
    saved = snapshot_folders(folder)
    half = sorted(path.name for path in folder.glob(".*.new/*"))
    if not saved and any(folder.glob("stage-*")):
        return _TOO_LATE
    where = f"step {snapshot_steps(saved[-1]):,}" if saved else "the beginning"
    return f"{where} while writing {half[0]}" if half else where


def run_files(run: Path) -> dict[str, str]:
    """Return the digest of every file that must be equal, by its path in the folder."""
    files = [*(run / name for name in TABLES), *sorted((run / "checkpoints").glob("**/*"))]
    found = {str(file.relative_to(run)): file for file in files if file.is_file()}
    return {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in found.items()}


def table(trials: list[Trial]) -> str:
    """Return a Markdown table with a row per sequence."""
    lines = ["| sequence | runs killed | kills | byte-identical |", "|---|---|---|---|"]
    for name in dict.fromkeys(trial.sequence for trial in trials):
        mine = [trial for trial in trials if trial.sequence == name]
        equal = sum(not trial.different for trial in mine)
        places = [place for trial in mine for place in trial.met_at]
        kills = sum(place.startswith(("step", "the beginning")) for place in places)
        lines.append(f"| {name} | {len(mine)} | {kills} | {equal} of {len(mine)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
