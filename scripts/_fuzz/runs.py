"""Small runs, kept in memory as files, that are mutated into inputs."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

from blip_rl.recipes import resolve
from blip_rl.run import train as train_module
from blip_rl.run.train import train

TINY = (
    "ppo.environments=2", "ppo.rollout_steps=16", "ppo.minibatches=2", "ppo.epochs=1",
    "trunk.vector.hidden=[4, 3]", "evaluation.episodes=1", "evaluation.every_steps=64",
    "evaluation.max_episode_steps=12", "checkpoint.every_steps=64",
)  # fmt: skip
METHODS = {
    "blip": ("method.fisher_samples=16",),
    "clear": ("method.capacity_frames=16", "method.batch=4"),
    "packnet": (),
    "single": (),
    "ewc": ("method.fisher_samples=16",),
    "sgp": ("method.samples=16",),
}
Files = dict[str, bytes]


class _BrokenOffError(RuntimeError):
    """Raised to end the run in the middle of its second task."""


def unfinished_run(folder: Path, agent: str) -> Files:
    """Train two tasks and stop in the second: one checkpoint of a stage, and snapshots of the second stage."""
    config = resolve("cartpole-a,cartpole-b", agent, steps="128", overrides=(*TINY, *METHODS[agent]))
    consolidate, calls = train_module.consolidate, []

    def broken(*arguments: object) -> None:
        calls.append(None)
        if len(calls) > 1:
            raise _BrokenOffError
        consolidate(*arguments)  # type: ignore[arg-type]

    train_module.consolidate = broken  # type: ignore[assignment]
    try:
        train(config, out=folder, threads=1, quiet=True)
    except _BrokenOffError:
        pass
    finally:
        train_module.consolidate = consolidate
    files = {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
    shutil.rmtree(folder)
    return {name: content for name, content in files.items() if not name.startswith(".lock")}


def write(files: Files, folder: Path) -> None:
    """Write the files into a folder, replacing its content."""
    shutil.rmtree(folder, ignore_errors=True)
    for name, content in files.items():
        path = folder / name
        if not path.parent.exists():
            path.parent.mkdir(parents=True)
        path.write_bytes(content)


def redigest(files: Files) -> None:
    """Recompute the digests of changed files, as an attacker would."""
    for name in [name for name in files if name.endswith("digests.json")]:
        folder = name.removesuffix("digests.json")
        inside = {other.removeprefix(folder): other for other in files if other.startswith(folder) and other != name}
        digests = {file: hashlib.sha256(files[other]).hexdigest() for file, other in inside.items() if "/" not in file}
        files[name] = json.dumps(digests).encode()
