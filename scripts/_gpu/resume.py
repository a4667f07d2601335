"""Whether a run repeats, and whether one that was interrupted and resumed ends like one that was not."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from kill_test import ATARI, run_files
from safetensors.torch import load_file

from _gpu.results import Results, step_options


def main() -> None:
    """Train two games three times: whole, again, and interrupted at the first snapshot."""
    options = step_options(__doc__)
    results = Results(options.out, options.seconds)
    with TemporaryDirectory(prefix="blip-rl-gpu-") as folder:
        whole, again, cut = (Path(folder, name) for name in ("whole", "again", "interrupted"))
        # The first two together: they share the machine, which must not change what they compute.
        both = [subprocess.Popen(_command(run, options.device)) for run in (whole, again)]
        codes = [process.wait() for process in both]
        results.put("repeated", {"exit_codes": codes} if any(codes) else _compare(whole, again))
        results.put("resumed", _interrupt(cut, options.device) or _compare(whole, cut))


def _interrupt(run: Path, device: str) -> dict[str, Any]:
    """Stop a run at its first snapshot and resume it; return the exit codes of a failure."""
    process = subprocess.Popen(_command(run, device))
    while process.poll() is None and not list((run / "checkpoints").glob("step-*")):
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    stopped = process.wait()
    command = [sys.executable, "-P", "-m", "blip_rl", "train", "--resume", str(run), "--quiet"]
    code = subprocess.run(command, check=False).returncode
    return {"exit_codes": [stopped, code]} if code else {}


def _command(run: Path, device: str) -> list[str]:
    return [*ATARI.command("blip", run), "--device", device]


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
