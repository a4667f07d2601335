"""Provenance of a run: package versions, machine, device and threads, and checks that a resume uses the same.

``environment.json`` in the run folder stores the environment in which the run was started.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from blip_rl.errors import UserError
from blip_rl.formatting import flatten
from blip_rl.shell import shell_command
from blip_rl.storage.versions import versions
from blip_rl.untrusted.files import parse_toml, read_json, read_toml

_MOST_THREADS = 1024
_WHERE_KNOWN = ("commit", "gpu", "instructions")


def saved_threads(run: Path) -> int:
    """Return the number of CPU threads the run was started with; torch's current number if that is unknown."""
    found = _saved_environment(run).get("threads")
    return found if isinstance(found, int) and 1 <= found <= _MOST_THREADS else torch.get_num_threads()


def check_recipe(config: Path, begun: str, accept_changes: bool) -> None:
    """Compare the recipe with the one stored in the snapshot.

    Args:
        config: Path of ``config.toml``.
        begun: Text of the recipe in the snapshot.
        accept_changes: Whether to accept differences.

    Raises:
        UserError: A setting differs and ``accept_changes`` is false; the message lists old and new values.
    """
    then, now = dict(flatten(parse_toml(begun, "the saved recipe"))), dict(flatten(read_toml(config)))
    changed = [key for key in {**then, **now} if then.get(key) != now.get(key)]
    if changed and not accept_changes:
        differences = "; ".join(f"{key} {then.get(key)!r} → {now.get(key)!r}" for key in changed)
        raise UserError(
            f"'{config}' has changed since the run was saved: {differences}. The results would differ "
            "from those of an uninterrupted run (undo the changes, or resume with --accept-changes)"
        )


def recipe_digest(recipe: str) -> dict[str, str]:
    """Return the SHA-256 entry for a recipe in ``environment.json``, read by :func:`check_initial_recipe`."""
    return {"recipe_sha256": hashlib.sha256(recipe.encode()).hexdigest()}


def check_initial_recipe(run: Path, recipe: str, accept_changes: bool) -> None:
    """Compare the recipe of a run without a snapshot with the recipe digest in ``environment.json``.

    Raises:
        UserError: It differs and ``accept_changes`` is false.
    """
    begun = _saved_environment(run).get("recipe_sha256")
    if not accept_changes and begun is not None and recipe_digest(recipe)["recipe_sha256"] != begun:
        raise UserError(
            f"'{run / 'config.toml'}' has changed since the run was started (undo the changes, or resume with "
            "--accept-changes)"
        )


def check_environment(run: Path, device: str, accept_changes: bool) -> None:
    """Compare the current versions, device, machine and threads with those in ``environment.json``.

    The commit of a checkout, whose version rarely changes, the name of the GPU and, without one, the instruction set
    that torch's kernels use are compared where both are known.

    Raises:
        UserError: One differs and ``accept_changes`` is false; the message lists old and new values.
    """
    begun, now = _saved_environment(run), environment(device)
    versions = begun.get("versions")
    before = versions if isinstance(versions, dict) else {}
    pairs = {name: (before.get(name), newer) for name, newer in now["versions"].items()}
    pairs |= {name: (begun.get(name), now[name]) for name in ("device", "machine", "threads")}
    pairs |= {name: (begun[name], now[name]) for name in _WHERE_KNOWN if begun.get(name) and now[name]}
    differences = [f"{name} {_short(then)} → {_short(after)}" for name, (then, after) in pairs.items() if then != after]
    if differences and not accept_changes:
        anyway = shell_command("blip-rl", "train", "--resume", run, "--accept-changes")
        raise UserError(
            f"the run in '{run}' was begun under other conditions: {'; '.join(differences)}. The results "
            f"may differ from those of an uninterrupted run (restore them, or resume it anyway with: {anyway})"
        )


def _short(value: object) -> str:
    """Return a value as text; a commit with 12 digits."""
    return re.sub("([0-9a-f]{12})[0-9a-f]{28}", r"\1", str(value))


def _saved_environment(run: Path) -> dict[str, Any]:
    path = run / "environment.json"
    found = read_json(path)
    if not isinstance(found, dict):
        raise UserError(f"'{path}' cannot be read: expected a table of versions, device and threads")
    return found


def command() -> str:
    """Return the current command line, quoted for a shell; bytes of a path that are not UTF-8 are escaped."""
    program = Path(sys.argv[0])
    ours = program.name in ("blip-rl", "__main__.py")
    words = shell_command(*(["blip-rl"] if ours else ["python", str(program)]), *sys.argv[1:])
    return words.encode("utf-8", "backslashreplace").decode()


def environment(device: str) -> dict[str, Any]:
    """Return what is needed to reproduce a run: start time, versions, commit, device, GPU, threads, machine."""
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "commit": _commit(),
        "device": device,
        "gpu": torch.cuda.get_device_name(device) if device.startswith("cuda") else None,
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "instructions": torch.backends.cpu.get_cpu_capability() if device == "cpu" else None,
        "system": platform.platform(),
        "cores": os.cpu_count(),
    }


def _commit() -> str | None:
    """Return the commit of the checkout, with ``-dirty`` if files are modified; None for an installed package."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    asked = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(asked, capture_output=True, text=True, check=True, timeout=10).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None
