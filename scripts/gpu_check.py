"""Everything to find out on a machine with a GPU in ten minutes: tests, correctness, speed, and a real run.

    python scripts/gpu_check.py --minutes 9 --out gpu-check

Steps run within their own limits, in processes of their own; those that time nothing run together. Results are
written as they come (gpu.json, gpu.md, runs.tar.gz in the folder), so that a cut at any moment keeps what has been
measured.
``--device cpu`` rehearses the command. blip_rl is taken from this checkout and need not be installed.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(_ROOT))

import torch  # noqa: E402
from _gpu.page import page  # noqa: E402
from _measure import check_device, provenance  # noqa: E402

from blip_rl.errors import UserError  # noqa: E402

LIMITS = {"tests": 120.0, "fidelity": 150.0, "resume": 120.0, "throughput": 140.0, "games": float("inf")}
"""Step → seconds at the most; the last one has what the others leave."""
_AT_ONCE = ("tests", "fidelity", "resume")
"""Steps that time nothing, and so may run together."""
_GRACE = 5.0  # seconds between being asked to end and being killed
_RESERVE = 3.0  # seconds kept for writing results


def main() -> None:
    """Run the steps."""
    options = _options()
    deadline = time.monotonic() + 60 * options.minutes - _RESERVE
    options.out.mkdir(parents=True, exist_ok=True)
    device = torch.cuda.get_device_name() if options.device.startswith("cuda") else options.device
    results: dict[str, Any] = {**provenance(), "device": device}
    results["commit"] = options.commit or results["commit"]
    together = [name for name in options.only if name in _AT_ONCE]
    with tempfile.TemporaryDirectory(prefix="blip-rl-gpu-check-") as folder:
        for names in ([together] if together else []) + [[name] for name in options.only if name not in _AT_ONCE]:
            # A rehearsal on a CPU is to reach the end of every step, however long that takes there.
            limit = max(LIMITS[name] for name in names) if options.device.startswith("cuda") else float("inf")
            seconds = min(limit, deadline - time.monotonic())
            if seconds < 2 * _GRACE:
                results |= {name: {"skipped": "no time left"} for name in names}
            else:
                _run(names, seconds, Path(folder), options, results)
            _write(results, options.out)
    print(page(results))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=9.0, help="for everything (%(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--device", default="cuda", help="(%(default)s)")
    parser.add_argument("--only", nargs="+", choices=tuple(LIMITS), default=list(LIMITS), help="steps to run")
    parser.add_argument("--environments", type=int, nargs="+", default=[16, 64, 128], help="numbers to time")
    parser.add_argument("--updates", type=int, default=20, help="that the two paths are compared over (%(default)s)")
    parser.add_argument("--steps", type=int, help="of each game of the real run; default: what the rate allows")
    parser.add_argument(
        "--agents", nargs="+", default=["blip", "finetune"], help="of the real run, which are run at once"
    )
    parser.add_argument("--games", default="kungfu,boxing,spaceinvaders", help="games or sequence of the real run")
    parser.add_argument("--seed", type=int, default=0, help="of the real run (%(default)s)")
    parser.add_argument("--commit", help="to name in the results, where the checkout has no git history")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change all recipes")
    options = parser.parse_args()
    try:
        check_device(options.device)
    except UserError as error:
        print(f"gpu_check.py: error: {error}", file=sys.stderr)
        sys.exit(2)
    return options


def _run(names: list[str], seconds: float, folder: Path, options: argparse.Namespace, results: dict[str, Any]) -> None:
    """Run steps side by side, and take over their results while they run."""
    print(f"{', '.join(names)}: at most {seconds:.0f} s", file=sys.stderr, flush=True)
    begun = time.monotonic()
    processes = {name: _start(name, seconds - 2 * _GRACE, folder, options, results) for name in names}
    taken: dict[str, float] = {}
    while len(taken) < len(names) and time.monotonic() - begun < seconds - _GRACE:
        time.sleep(0.5)
        for name, process in processes.items():
            _take(name, folder, results)
            if name not in taken and process.poll() is not None:
                taken[name] = time.monotonic() - begun
        _write(results, options.out)
    for name, process in processes.items():
        if process.poll() is None:
            _end(process)
        _take(name, folder, results)
        took = taken.get(name, time.monotonic() - begun)
        results[name] |= {"exit_code": process.returncode, "seconds_taken": round(took, 1)}


def _start(
    name: str, seconds: float, folder: Path, options: argparse.Namespace, results: dict[str, Any]
) -> subprocess.Popen[bytes]:
    """Start a step in its own process group, so that its children can be ended too."""
    return subprocess.Popen(
        _command(name, seconds, folder, options, results),
        cwd=_ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(_ROOT), str(_ROOT / "scripts"), *sys.path[1:]])},
        start_new_session=True,
        stdout=sys.stderr,
    )


def _command(
    name: str, seconds: float, folder: Path, options: argparse.Namespace, results: dict[str, Any]
) -> list[str]:
    command = [sys.executable, "-m", f"_gpu.{name}", "--device", options.device, "--seconds", str(seconds)]
    command += ["--out", str(folder / f"{name}.json"), "--updates", str(options.updates), "--rate", str(_rate(results))]
    command += ["--archive", str((options.out / "runs.tar.gz").resolve())]
    command += [
        "--environments",
        *map(str, options.environments),
        "--agents",
        *options.agents,
        "--games",
        options.games,
        "--seed",
        str(options.seed),
    ]
    command += ["--steps", str(options.steps)] if options.steps else []
    return command + [part for change in options.set for part in ("--set", change)]


def _rate(results: dict[str, Any]) -> float:
    """Return the measured steps per second of the BLIP recipe, or 1,000 if not measured."""
    speeds = results.get("throughput", {}).get("speeds", {})
    found = [
        one["steps_per_second"]
        for name, one in speeds.items()
        if name.startswith("blip, 16 environments, captured, float32")
    ]
    return float(found[0]) if found else 1_000.0


def _end(process: subprocess.Popen[bytes]) -> None:
    """Send SIGTERM to the process group of a step, then SIGKILL."""
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(_GRACE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _take(name: str, folder: Path, results: dict[str, Any]) -> None:
    out = folder / f"{name}.json"
    results[name] = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}


def _write(results: dict[str, Any], out: Path) -> None:
    for name, write in (("gpu.json", lambda: json.dumps(results, indent=2) + "\n"), ("gpu.md", lambda: page(results))):
        new = out / f".{name}"
        try:
            new.write_text(write(), encoding="utf-8")
        except Exception:  # a page that cannot be made must not end measurements on a machine that is lent
            traceback.print_exc()
            continue
        new.replace(out / name)


if __name__ == "__main__":
    main()
