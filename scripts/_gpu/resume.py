"""Whether a run repeats, and whether one that was interrupted and resumed ends like one that was not.

For BLIP, and for an agent that learns in a separate trunk and distils, which is interrupted in its second game.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from kill_test import ATARI, run_files
from safetensors.torch import load_file

from _gpu.results import Results, step_options
from blip_rl.storage.snapshot_names import snapshot_folders

AGENTS = {
    "blip": (),
    "ewc-kronecker-distil": (
        "distil.rollout_states=256",
        "distil.teacher_states=256",
        "distil.student_states=256",
        "distil.updates=40",
    ),
}
"""Agent → settings that make its runs short."""


def main() -> None:
    """Train two games three times: whole, again, and interrupted at the first snapshot of the second game."""
    options = step_options(__doc__)
    results = Results(options.out, options.seconds)
    # All together: that they share the machine must not change what they compute.
    with TemporaryDirectory(prefix="blip-rl-gpu-") as folder, ThreadPoolExecutor(len(AGENTS)) as pool:
        check = partial(_check, Path(folder), ["--device", options.device, *_settings(options.set)])
        for agent, found in zip(AGENTS, pool.map(check, AGENTS), strict=True):
            results.put(agent, found)


def _check(folder: Path, changes: list[str], agent: str) -> dict[str, Any]:
    """Return how the repeated and the resumed run differ from the whole one."""
    whole, again, cut = (folder / agent / name for name in ("whole", "again", "interrupted"))
    whole.parent.mkdir()
    both = [subprocess.Popen(_command(agent, run, changes)) for run in (whole, again)]
    stopped = _interrupt(agent, cut, changes)
    codes = [process.wait() for process in both]
    if any(codes):
        return {"repeated": {"exit_codes": codes}, "resumed": stopped or {"exit_codes": codes}}
    return {"repeated": _compare(whole, again), "resumed": stopped or _compare(whole, cut)}


def _interrupt(agent: str, run: Path, changes: list[str]) -> dict[str, Any]:
    """Stop a run in its second game, at a snapshot, and resume it; return the exit codes of a failure."""
    process = subprocess.Popen(_command(agent, run, changes))
    while process.poll() is None and not _in_second_game(run):
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    stopped = process.wait()
    command = [sys.executable, "-P", "-m", "blip_rl", "train", "--resume", str(run), "--quiet"]
    code = subprocess.run(command, check=False).returncode
    return {"exit_codes": [stopped, code]} if code else {}


def _in_second_game(run: Path) -> bool:
    newest = snapshot_folders(run / "checkpoints")[-1:]
    try:
        return any(json.loads((path / "snapshot.json").read_text(encoding="utf-8"))["stage"] == 2 for path in newest)
    except FileNotFoundError:  # it has just been replaced by a newer one
        return False


def _command(agent: str, run: Path, changes: list[str]) -> list[str]:
    return [*ATARI.command(agent, run), *_settings(AGENTS[agent]), *changes]


def _settings(changes: Iterable[str]) -> list[str]:
    return [part for change in changes for part in ("--set", change)]


def _compare(one: Path, other: Path) -> dict[str, Any]:
    mine, its = run_files(one), run_files(other)
    weights = [load_file(run / "checkpoints" / "stage-02" / "policy.safetensors") for run in (one, other)]
    return {
        "different_files": [name for name in {**mine, **its} if mine.get(name) != its.get(name)],
        "largest_weight_difference": max(
            (value.double() - weights[1][name].double()).abs().max().item() for name, value in weights[0].items()
        ),
    }


if __name__ == "__main__":
    main()
