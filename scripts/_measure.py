"""Shared by the measuring scripts: options, provenance, memory, timers, Markdown output."""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from blip_rl.errors import UserError
from blip_rl.shell import shell_command

_LIBRARIES = ("torch", "stable-baselines3", "ale-py", "gymnasium", "numpy")
_ROOT = Path(__file__).resolve().parent.parent


def positive_int(text: str) -> int:
    """Parse a whole number of at least 1 from the command line."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number of at least 1")
    return int(text)


def add_common_options(parser: argparse.ArgumentParser, repeats: int) -> None:
    """Add the options that every benchmark has."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parser.add_argument("--repeats", type=positive_int, default=repeats, help="medians are over these (%(default)s)")
    parser.add_argument("--threads", type=positive_int, default=cores, help="torch threads (all cores: %(default)s)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the results as JSON")


def check_device(device: str) -> None:
    """Check that torch can use a device.

    Raises:
        UserError: it cannot.
    """
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:  # unknown kind, no such GPU; torch built without CUDA
        raise UserError(f"--device {device}: {str(error).splitlines()[0]} (cpu always works)") from error


_PATHS = ("--out", "--resume", "--archive")  # options with a path of one machine


def without_paths(words: Iterable[str]) -> Iterator[str]:
    """Yield the words of a command line without paths of the machine that it ran on."""
    left = iter(words)
    for word in left:
        if word in _PATHS:
            next(left, None)
        elif not word.startswith(tuple(f"{option}=" for option in _PATHS)):
            yield word


def provenance() -> dict[str, Any]:
    """Return what is needed to judge or repeat a measurement: command, commit, versions, machine."""
    return {
        "command": shell_command("python", f"scripts/{Path(sys.argv[0]).name}", *without_paths(sys.argv[1:])),
        "commit": _commit(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in _LIBRARIES}},
        "environment": {key: value for key, value in os.environ.items() if re.match(r"(G?OMP|KMP|MKL)_", key)},
        "machine": {
            "cpu": _cpu_model(),
            "cores": os.cpu_count(),
            "torch_threads": torch.get_num_threads(),
            "load_average": round(os.getloadavg()[0], 2),  # before the measurement
        },
    }


def rss_mb() -> float | None:
    """Return the resident memory of this process in MB (10⁶ bytes); None without /proc."""
    return _status_mb("self", "VmRSS")


def cpu_seconds(processes: Sequence[int] = ()) -> float:
    """Return the processor time of this process and of others, given by pid, over all their threads."""
    return time.process_time() + sum(map(_cpu_seconds_of, processes))


def peak_rss_mb(process: int | str = "self") -> float | None:
    """Return the peak resident memory of a process, in MB; None without /proc.

    Not ``ru_maxrss``: a new process inherits that from its parent.
    """
    return _status_mb(process, "VmHWM")


def reset_peak_rss() -> bool:
    """Reset the peak to the current resident memory; return False if the system does not allow it."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def run_alone(*options: object) -> dict[str, Any]:
    """Run this command with additional options in a separate process; return its results."""
    with tempfile.TemporaryDirectory(prefix="blip-rl-benchmark-") as folder:
        out = Path(folder, "results.json")
        command = [sys.executable, *sys.argv, *map(str, options), "--out", str(out)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        results: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return results


@contextmanager
def timed(
    owner: Any, function: str, seconds: dict[str, float], key: str = "", wait: Callable[[], object] = lambda: None
) -> Iterator[None]:
    """Accumulate the time that a method of one object takes, within the block.

    Args:
        owner: The object.
        function: Name of the method.
        seconds: Where the time is added.
        key: Key in ``seconds``; empty: the name of the method.
        wait: Called before the clock is read: synchronises a GPU.
    """
    original, nested = getattr(owner, function), function in vars(owner)

    def measured(*args: Any, **kwargs: Any) -> Any:
        wait()
        begun = time.perf_counter()
        try:
            return original(*args, **kwargs)
        finally:
            wait()
            seconds[key or function] += time.perf_counter() - begun

    setattr(owner, function, measured)  # hides the class's function, for this object alone
    try:
        yield
    finally:
        if nested:
            setattr(owner, function, original)
        else:
            delattr(owner, function)


def show(results: dict[str, Any], text: str, out: Path | None) -> None:
    """Print a Markdown report and the machine, and write the results as JSON if ``out`` is given."""
    machine, versions = results["machine"], results["versions"]
    print(text)
    print(
        f"\n{machine['cpu']}, {machine['cores']} cores (torch threads: {machine['torch_threads']}; "
        f"load average before: {machine['load_average']}); "
        f"{', '.join(f'{name} {number}' for name, number in versions.items())}; "
        f"commit {results['commit']}\nCommand: `{results['command']}`"
    )
    if out is not None:
        out.write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format rows of cells as a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell(value: float | None, form: str = ".0f") -> str:
    """Format a number for a table; a dash if it could not be measured."""
    return "–" if value is None else format(value, form)


def _status_mb(process: int | str, key: str) -> float | None:
    try:
        text = Path(f"/proc/{process}/status").read_text(encoding="utf-8")
    except OSError:
        return None
    match = re.search(rf"^{key}:\s+(\d+) kB", text, re.MULTILINE)
    return int(match[1]) * 1024 / 1e6 if match else None


def _cpu_seconds_of(process: int) -> float:
    """Return 0 without /proc, or if the process has ended."""
    try:
        text = Path(f"/proc/{process}/stat").read_text(encoding="utf-8")
    except OSError:
        return 0.0
    user, system = text.rpartition(")")[2].split()[11:13]  # the name before it may hold spaces
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def _cpu_model() -> str:
    try:
        match = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        match = None
    return match[1] if match else platform.processor() or platform.machine()


def _commit() -> str | None:
    """Return the commit of this checkout, with the suffix -dirty if files were changed; None outside of git."""
    try:
        command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
        return subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
