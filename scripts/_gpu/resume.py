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
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from kill_test import ATARI, run_files
from safetensors.torch import load_file
from torch import Tensor

from _gpu.results import Results, step_options
from blip_rl.storage.snapshot_names import snapshot_folders

_SHORT = ("distil.rollout_states=256", "distil.teacher_states=256", "distil.student_states=256", "distil.updates=40")
CASES: dict[str, tuple[str, ...]] = {
    "blip": (),
    "ewc-kronecker-distil": _SHORT,
    "ewc-kronecker-distil, eager": (*_SHORT, "compute.capture=off"),
}
"""Agent, and a word on the case → settings of its runs."""
_REPEATS = 3
"""Equal runs on a GPU, as a difference may be rare; one on a CPU, where this is only rehearsed."""


def main() -> None:
    """Train two games several times: without and with an interruption at the first snapshot of the second game."""
    options = step_options(__doc__)
    results = Results(options.out, options.seconds)
    # All together: that they share the machine must not change what they compute.
    with TemporaryDirectory(prefix="blip-rl-gpu-") as folder, ThreadPoolExecutor(len(CASES)) as pool:
        check = partial(_check, Path(folder), options.device, _settings(options.set))
        running = {pool.submit(check, case): case for case in CASES}
        for done in as_completed(running):
            results.put(running[done], done.result())


def _check(folder: Path, device: str, changes: list[str], case: str) -> dict[str, Any]:
    """Return how the repeated runs and the resumed one differ from the first one."""
    changes = ["--device", device, *changes]
    (folder / case).mkdir()
    equal = [folder / case / f"run-{number}" for number in range(1 + (_REPEATS if device.startswith("cuda") else 1))]
    running = [subprocess.Popen(_command(case, run, changes)) for run in equal]
    cut = folder / case / "interrupted"
    stopped = _interrupt(case, cut, changes)
    codes = [process.wait() for process in running]
    if any(codes):
        return {"repeated": {"exit_codes": codes}, "resumed": stopped or {"exit_codes": codes}}
    return {"repeated": _compare(*equal), "resumed": stopped or _compare(equal[0], cut)}


def _interrupt(case: str, run: Path, changes: list[str]) -> dict[str, Any]:
    """Stop a run in its second game, at a snapshot, and resume it; return the exit codes of a failure."""
    process = subprocess.Popen(_command(case, run, changes))
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


def _command(case: str, run: Path, changes: list[str]) -> list[str]:
    return [*ATARI.command(case.partition(",")[0], run), *_settings(CASES[case]), *changes]


def _settings(changes: Iterable[str]) -> list[str]:
    return [part for change in changes for part in ("--set", change)]


def _compare(first: Path, *others: Path) -> dict[str, Any]:
    files, weights = run_files(first), _weights(first)
    different = [_different(files, run_files(run)) for run in others]
    return {
        "runs": len(others),
        "different_runs": sum(map(bool, different)),
        "different_files": sorted({name for names in different for name in names}),
        "largest_weight_difference": max(
            (value - weights[name]).abs().max().item() for run in others for name, value in _weights(run).items()
        ),
    }


def _different(files: dict[str, str], others: dict[str, str]) -> list[str]:
    return [name for name in {**files, **others} if files.get(name) != others.get(name)]


def _weights(run: Path) -> dict[str, Tensor]:
    """Return the weights at the end, in float64."""
    saved = load_file(run / "checkpoints" / "stage-02" / "policy.safetensors")
    return {name: value.double() for name, value in saved.items()}


if __name__ == "__main__":
    main()
