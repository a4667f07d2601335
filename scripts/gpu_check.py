"""Everything to find out on a machine with a GPU in ten minutes: tests, correctness, speed, and a real run.

    python scripts/gpu_check.py --minutes 9 --out gpu-check

Steps run one after another, each within its own limit, in processes of their own; results are written as they come
(gpu.json, gpu.md, runs.tar.gz in the folder), so that a cut at any moment keeps what has been measured.
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
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(_ROOT))

import torch  # noqa: E402
from _gpu.page import page  # noqa: E402
from _measure import check_device, provenance  # noqa: E402

from blip_rl.errors import UserError  # noqa: E402

LIMITS = {"tests": 90.0, "fidelity": 60.0, "resume": 60.0, "throughput": 150.0, "games": float("inf")}
"""Step → seconds at the most; the last one has what the others leave."""
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
    with tempfile.TemporaryDirectory(prefix="blip-rl-gpu-check-") as folder:
        for name in options.only:
            left = deadline - time.monotonic()
            if left < 2 * _GRACE:
                results[name] = {"skipped": "no time left"}
            else:
                _run(name, min(LIMITS[name], left), Path(folder, f"{name}.json"), options, results)
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
    parser.add_argument("--commit", help="to name in the results, where the checkout has no git history")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change all recipes")
    options = parser.parse_args()
    try:
        check_device(options.device)
    except UserError as error:
        print(f"gpu_check.py: error: {error}", file=sys.stderr)
        sys.exit(2)
    return options


def _run(name: str, seconds: float, out: Path, options: argparse.Namespace, results: dict[str, Any]) -> None:
    """Run one step, and take over its results while it runs."""
    print(f"{name}: at most {seconds:.0f} s", file=sys.stderr, flush=True)
    begun = time.monotonic()
    process = subprocess.Popen(
        _command(name, seconds - 2 * _GRACE, out, options, results),
        cwd=_ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(_ROOT), str(_ROOT / "scripts"), *sys.path[1:]])},
        start_new_session=True,
        stdout=sys.stderr,
    )
    while process.poll() is None and time.monotonic() - begun < seconds - _GRACE:
        time.sleep(0.5)
        _take(name, out, results)
        _write(results, options.out)
    if process.poll() is None:
        _end(process)
    _take(name, out, results)
    results[name] |= {"exit_code": process.returncode, "seconds_taken": round(time.monotonic() - begun, 1)}


def _command(name: str, seconds: float, out: Path, options: argparse.Namespace, results: dict[str, Any]) -> list[str]:
    command = [sys.executable, "-m", f"_gpu.{name}", "--device", options.device, "--seconds", str(seconds)]
    command += ["--out", str(out), "--updates", str(options.updates), "--rate", str(_rate(results))]
    command += ["--archive", str((options.out / "runs.tar.gz").resolve())]
    command += ["--environments", *map(str, options.environments)]
    command += ["--steps", str(options.steps)] if options.steps else []
    return command + [part for change in options.set for part in ("--set", change)]


def _rate(results: dict[str, Any]) -> float:
    """Steps per second of BLIP as its recipe is, as far as they have been measured; 1,000 otherwise."""
    speeds = results.get("throughput", {}).get("speeds", {})
    found = [one["steps_per_second"] for name, one in speeds.items() if name.startswith("blip, captured, float32, 16")]
    return float(found[0]) if found else 1_000.0


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask the step and all that it started to end, then kill what is left."""
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(_GRACE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _take(name: str, out: Path, results: dict[str, Any]) -> None:
    results[name] = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}


def _write(results: dict[str, Any], out: Path) -> None:
    for name, text in (("gpu.json", json.dumps(results, indent=2) + "\n"), ("gpu.md", page(results))):
        new = out / f".{name}"
        new.write_text(text, encoding="utf-8")
        new.replace(out / name)


if __name__ == "__main__":
    main()
