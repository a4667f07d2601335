"""Read back what a run measured of itself besides scores: returns in training, plasticity and speed."""

from __future__ import annotations

from pathlib import Path

from blip_rl.report.table import MOST_LAYERS, Table, read_table

PLASTICITY = {
    "dormant_share": "Dormant units",
    "effective_rank": "Effective rank",
    "gradient_norm": "Gradient norm",
    "free_bits": "Free bits",
}
"""Measured at each evaluation for every layer: column of ``plasticity.csv`` → what it is called."""


def load_plasticity(run: Path, problems: list[str]) -> Table | None:
    """Read ``plasticity.csv``; None where the run wrote none."""
    table = _optional(run / "plasticity.csv", ("env_steps", "stage", *PLASTICITY), ("phase", "layer"), problems)
    if table is not None and (layers := len(set(table.words["layer"]))) > MOST_LAYERS:
        problems.append(f"plasticity.csv names {layers:,} layers: expected at most {MOST_LAYERS}; left out")
        return None
    return table


def load_speed(run: Path, problems: list[str]) -> Table | None:
    """Read ``speed.csv``; None where the run wrote none."""
    return _optional(run / "speed.csv", ("env_steps", "stage", "steps_per_second", "peak_memory_mb"), (), problems)


def load_returns(run: Path, problems: list[str]) -> Table | None:
    """Read ``returns.csv``, the mean returns of training episodes; None where the run wrote none."""
    return _optional(run / "returns.csv", ("env_steps", "stage", "episodes", "mean_return"), ("task",), problems)


def _optional(path: Path, numbers: tuple[str, ...], words: tuple[str, ...], problems: list[str]) -> Table | None:
    """A table that runs of earlier versions do not have: its absence is no problem."""
    if not path.exists():
        return None
    table = read_table(path, numbers, words, problems)
    return table if table is not None and len(table.numbers["env_steps"]) else None
