"""What the benchmark scripts share: options, the machine, memory, and how results are shown."""

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
from collections.abc import Callable, Iterator, Sequence
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
    """Read a whole number of at least 1 from the command line."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number of at least 1")
    return int(text)


def add_common_options(parser: argparse.ArgumentParser, repeats: int) -> None:
    """Give a parser the options that every benchmark has."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parser.add_argument("--repeats", type=positive_int, default=repeats, help="medians are over these (%(default)s)")
    parser.add_argument("--threads", type=positive_int, default=cores, help="torch threads (all cores: %(default)s)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the results as JSON")


def check_device(device: str) -> None:
    """Check that torch can compute there.

    Raises:
        UserError: it cannot.
    """
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:  # unknown kind, no such GPU; torch built without CUDA
        raise UserError(f"--device {device}: {str(error).splitlines()[0]} (cpu always works)") from error


def provenance() -> dict[str, Any]:
    """What a reader needs to judge or repeat a measurement: command, code, versions, machine."""
    return {
        "command": shell_command("python", f"scripts/{Path(sys.argv[0]).name}", *sys.argv[1:]),
        "commit": _commit(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in _LIBRARIES}},
        "environment": {key: value for key, value in os.environ.items() if re.match(r"(G?OMP|KMP|MKL)_", key)},
        "machine": {
            "cpu": _cpu_model(),
            "cores": os.cpu_count(),
            "torch_threads": torch.get_num_threads(),
            "load_average": round(os.getloadavg()[0], 2),  # before: an idle machine shows about 0
        },
    }


def rss_mb() -> float | None:
    """Memory this process holds now, in MB (10⁶ bytes); None where there is no /proc."""
    return _status_mb("self", "VmRSS")


def cpu_seconds(processes: Sequence[int] = ()) -> float:
    """Processor time that this process and others, named by their numbers, have used so far, in all their threads."""
    return time.process_time() + sum(map(_cpu_seconds_of, processes))


def peak_rss_mb(process: int | str = "self") -> float | None:
    """Most memory a process has held, in MB; None where there is no /proc.

    Not ``ru_maxrss``: a new process inherits that from the one that started it, however small it is itself.
    """
    return _status_mb(process, "VmHWM")


def reset_peak_rss() -> bool:
    """Let the peak start again from the memory held now; False where the system does not allow it."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def run_alone(*options: object) -> dict[str, Any]:
    """Run this command again in a process of its own, with more options behind its own; return its results."""
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
    """Add up the time that one object's function takes, while the block lasts.

    Args:
        owner: Whose function.
        function: Its name.
        seconds: Where to add up.
        key: Under which name; empty: the function's.
        wait: Called before each look at the clock: waits until a GPU has done what it was given.
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
    """Print a Markdown report, the machine below it, and write the results where asked."""
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
    """Rows of cells → a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell(value: float | None, form: str = ".0f") -> str:
    """A number as a table shows it; a dash for one that could not be measured."""
    return "–" if value is None else format(value, form)


def _status_mb(process: int | str, key: str) -> float | None:
    try:
        text = Path(f"/proc/{process}/status").read_text(encoding="utf-8")
    except OSError:
        return None
    match = re.search(rf"^{key}:\s+(\d+) kB", text, re.MULTILINE)
    return int(match[1]) * 1024 / 1e6 if match else None


def _cpu_seconds_of(process: int) -> float:
    """0 where there is no /proc, or no longer that process."""
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
    """The commit of this checkout, with -dirty behind it where files were changed; None outside of git."""
    try:
        command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
        return subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
