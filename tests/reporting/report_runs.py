"""Write run folders with simple numbers, in the format of a training."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
from safetensors.numpy import save_file

from blip_rl.records import BitsRow, PlasticityRow, ScoreRow, SpeedRow, columns

SCORE_COLUMNS = columns(ScoreRow)
GAMES = ("kungfu", "boxing", "krull")
TITLES = {"kungfu": "Kung-Fu Master", "boxing": "Boxing", "krull": "Krull"}
STEPS = 1000
REFERENCE = 10.0
EPISODES = 2


def score(stage: int, task: int, seed: int) -> float:
    """Return 10 for the game just learned, a third less after each further game; seeds differ by 0.1."""
    return REFERENCE * (2 / 3) ** (stage - 1 - task) + 0.1 * seed


def write_table(path: Path, columns: list[str], rows: list[list[Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([columns, *rows])


def make_run(
    path: Path,
    *,
    agent: str = "blip",
    seed: int = 0,
    games: tuple[str, ...] = GAMES,
    stages: int | None = None,
    together: bool = False,
    steps: int = STEPS,
    reference: float = REFERENCE,
    normalisers: bool = True,
    bits: bool = True,
    shapes: dict[str, tuple[int, ...]] | None = None,
    logs: bool = True,
    titles: dict[str, str] | None = None,
    settings: dict[str, Any] | None = None,
    command: str = "blip-rl train --games kungfu,boxing,krull",
) -> Path:
    """Write a run over ``games`` of which ``stages`` are learned (default: all), with two evaluations in each."""
    path.mkdir(parents=True)
    done = len(games) if stages is None else stages
    names = TITLES | (titles or {})
    levels = {"random_score": 0.0, "reference_score": reference} if normalisers else {}
    config = {
        "agent_name": agent,
        "sequence_name": "three",
        "seed": seed,
        "agent": {
            "description": f"recipe of {agent}",
            "method": {"name": "blip", "total_bits": 20},
            **(settings or {}),
        },
        "tasks": [{"name": g, "game": g, "title": names.get(g, g), "steps": steps, **levels} for g in games],
        "evaluation": {"actions": "greedy"},
    }
    (path / "config.toml").write_text(tomli_w.dumps(config), encoding="utf-8")
    (path / "command.txt").write_text(command + "\n", encoding="utf-8")
    (path / "environment.json").write_text(json.dumps({"device": "cpu", "versions": {"python": "3.11"}}))
    write_table(path / "scores.csv", SCORE_COLUMNS, _scores(games, done, seed, together, normalisers))
    layers = shapes or {"conv1": (4, 2, 3, 3), "fc1": (8, 6)}
    write_table(path / "bits.csv", columns(BitsRow), [])
    if bits:
        for stage in [done] if together else range(1, done + 1):
            _freeze(path, stage, layers)
    if logs:
        _logs(path, [done] if together else list(range(1, done + 1)), list(layers))
    return path


def _scores(games: tuple[str, ...], done: int, seed: int, together: bool, normalisers: bool) -> list[list[Any]]:
    rows: list[list[Any]] = []
    for stage in [done] if together else range(1, done + 1):
        for phase, at in (("periodic", 0.5), ("before", 1), ("after", 1)):
            steps = int((stage - 1 + at) * STEPS)
            for task, game in enumerate(games[:stage]):
                value = score(stage, task, seed) + (0.5 if phase == "before" else 0.0)
                normal = value / REFERENCE if normalisers else ""
                rows += [[steps, stage, phase, game, e, value, 9, 0, normal, "greedy"] for e in range(EPISODES)]
    return rows


def frozen(stage: int, shape: tuple[int, ...]) -> np.ndarray:
    """Return 2 bits per stage for even weights and one more for odd ones."""
    return (2 * stage + np.arange(np.prod(shape)).reshape(shape) % 2).astype(np.uint8)


def _freeze(path: Path, stage: int, layers: dict[str, tuple[int, ...]]) -> None:
    tensors, rows = {}, []
    for layer, shape in layers.items():
        bits = frozen(stage, shape)
        tensors[f"{layer}.weight.frozen_bits"] = bits
        tensors[f"{layer}.bias.frozen_bits"] = np.full(shape[0], 20, dtype=np.uint8)
        rows += [[stage, layer, "weight", b, int(n)] for b, n in enumerate(np.bincount(bits.ravel())) if n]
        rows.append([stage, layer, "bias", 20, shape[0]])
    folder = path / "checkpoints" / f"stage-{stage:02d}"
    folder.mkdir(parents=True)
    save_file(tensors, folder / "method.safetensors")
    with (path / "bits.csv").open("a", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


def _logs(path: Path, stages: list[int], layers: list[str]) -> None:
    rows = [
        [stage * STEPS, stage, "periodic", layer, 0.1 * stage, 10 - stage + at, 0.5 / stage, 20 - 2 * stage]
        for stage in stages
        for at, layer in enumerate(layers)
    ]
    write_table(path / "plasticity.csv", columns(PlasticityRow), rows)
    write_table(path / "speed.csv", columns(SpeedRow), [[s * STEPS, s, 300 + s, 800 + s] for s in stages])
