"""The run folder: where a run's evidence is written, and how it is read back.

Everything a report needs is here as text: ``config.toml``, ``command.txt``, ``environment.json``, ``scores.csv``,
``bits.csv``, TensorBoard event files and ``checkpoints/``.
"""

from __future__ import annotations

import csv
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from blip_rl.config import RunConfig
from blip_rl.errors import UserError

Phase = Literal["periodic", "before", "after"]


@dataclass(frozen=True)
class ScoreRow:
    """One episode of one evaluation; a row of ``scores.csv``.

    Attributes:
        env_steps: Training steps of the whole run when the score was taken.
        stage: Tasks learned so far, counting the one being learned or just learned.
        phase: During learning, or before or after the consolidation that ends the stage.
        task: Name of the task played.
        seed: What the episode was played with; the same at every evaluation of a run.
        score: Raw return of the whole game; the column is called ``return``.
        length_steps: Decisions.
        truncated: Whether a cap ended it.
        normalised: 0 = random play, 1 = the reference; empty without normalisers.
        actions: How actions were chosen.
    """

    env_steps: int
    stage: int
    phase: Phase
    task: str
    seed: int
    score: float
    length_steps: int
    truncated: bool
    normalised: float | None
    actions: str


@dataclass(frozen=True)
class BitsRow:
    """How many parameters of a layer have how many frozen bits after a stage; a row of ``bits.csv``."""

    stage: int
    layer: str
    parameter: str
    frozen_bits: int
    count: int


_SCORE_COLUMNS = [{"score": "return"}.get(f.name, f.name) for f in fields(ScoreRow)]
_BITS_COLUMNS = [f.name for f in fields(BitsRow)]


class RunFolder:
    """Paths and writers of one run folder. Rows reach the disk as soon as they are written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.scores = path / "scores.csv"
        self.bits = path / "bits.csv"
        self.config = path / "config.toml"

    @staticmethod
    def planned(path: Path) -> RunFolder:
        """A folder that a new run may create.

        Raises:
            UserError: something is there already, or it cannot be created there.
        """
        if os.path.lexists(path):
            raise UserError(f"output folder '{path}' exists: a run never writes into another; choose a new --out")
        parent = next(p for p in path.absolute().parents if p.exists())
        if not parent.is_dir() or not os.access(parent, os.W_OK):
            raise UserError(f"output folder '{path}' cannot be created: '{parent}' is not a writable folder")
        return RunFolder(path)

    @staticmethod
    def existing(path: Path) -> RunFolder:
        """The folder of a run that was made.

        Raises:
            UserError: it is not one.
        """
        folder = RunFolder(path)
        if not folder.config.is_file():
            raise UserError(f"'{path}' is not a run folder: it has no config.toml (blip-rl train creates run folders)")
        return folder

    def create(self, config_toml: str, device: str, seeds: dict[str, Any]) -> None:
        """Make the folder and write down what the run is."""
        self.path.mkdir(parents=True)
        self.config.write_text(config_toml, encoding="utf-8")
        (self.path / "command.txt").write_text(_command() + "\n", encoding="utf-8")
        text = json.dumps({**_environment(device), "seeds": seeds}, indent=2) + "\n"
        (self.path / "environment.json").write_text(text, encoding="utf-8")
        _append(self.scores, [_SCORE_COLUMNS])
        _append(self.bits, [_BITS_COLUMNS])

    def stage_path(self, stage: int) -> Path:
        """Where the checkpoint after a stage is kept."""
        return self.path / "checkpoints" / f"stage-{stage:02d}"

    def stages(self) -> list[int]:
        """Stages that have a checkpoint, in order."""
        found = (self.path / "checkpoints").glob("stage-*")
        return sorted(int(path.name[6:]) for path in found if path.name[6:].isdigit())

    def add_scores(self, rows: Iterable[ScoreRow]) -> None:
        """Append to ``scores.csv``."""
        _append(self.scores, [_cells(row) for row in rows])

    def replace_scores(self, rows: Sequence[ScoreRow]) -> None:
        """Write rows into ``scores.csv`` in place of the same episodes: same stage, phase, task, seed and actions.

        Episodes with other seeds stay: scoring again extends the evidence and never thins it.
        """
        replaced = {_identity(row) for row in rows}
        kept = [row for row in self.read_scores() if _identity(row) not in replaced]
        beside = self.scores.with_suffix(".new")
        beside.unlink(missing_ok=True)
        _append(beside, [_SCORE_COLUMNS, *(_cells(row) for row in [*kept, *rows])])
        beside.replace(self.scores)

    def read_scores(self) -> list[ScoreRow]:
        """All rows of ``scores.csv``.

        Raises:
            UserError: the file is missing or damaged.
        """
        try:
            with self.scores.open(newline="", encoding="utf-8") as file:
                return [_score_row(cells) for cells in csv.DictReader(file)]
        except (OSError, KeyError, ValueError, TypeError) as error:
            raise UserError(f"'{self.scores}' cannot be read as scores: {error!r}") from error

    def add_bits(self, rows: Iterable[BitsRow]) -> None:
        """Append to ``bits.csv``."""
        _append(self.bits, [_cells(row) for row in rows])


def default_path(config: RunConfig) -> Path:
    """``runs/<sequence>-<agent>-seed<seed>-<time>``: a name no other run has."""
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    stem = f"{config.sequence_name[:80]}-{config.agent_name[:40]}-seed{config.seed}-{stamp}"
    path = Path("runs") / stem
    return next(p for p in (path, *(path.with_name(f"{stem}-{n}") for n in range(2, 1000))) if not p.exists())


def _identity(row: ScoreRow) -> tuple[int, str, str, int, str]:
    return row.stage, row.phase, row.task, row.seed, row.actions


def _cells(row: ScoreRow | BitsRow) -> list[str]:
    return [_cell(value) for value in asdict(row).values()]


def _cell(value: object) -> str:
    if value is None:
        return ""
    return str(int(value)) if isinstance(value, bool) else str(value)


def _score_row(cells: dict[str, str]) -> ScoreRow:
    return ScoreRow(
        env_steps=int(cells["env_steps"]),
        stage=int(cells["stage"]),
        phase=cells["phase"],  # type: ignore[arg-type]
        task=cells["task"],
        seed=int(cells["seed"]),
        score=float(cells["return"]),
        length_steps=int(cells["length_steps"]),
        truncated=cells["truncated"] == "1",
        normalised=float(cells["normalised"]) if cells["normalised"] else None,
        actions=cells["actions"],
    )


def _append(path: Path, rows: Iterable[Sequence[str]]) -> None:
    with path.open("a", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


def _command() -> str:
    """The command as a shell would take it again."""
    program = Path(sys.argv[0])
    ours = program.name in ("blip-rl", "__main__.py")
    return shlex.join([*(["blip-rl"] if ours else ["python", str(program)]), *sys.argv[1:]])


def _environment(device: str) -> dict[str, Any]:
    """What must be known to run this again: versions, commit, machine."""
    packages = ("blip-rl", "torch", "numpy", "stable-baselines3", "gymnasium", "ale-py")
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
        "commit": _commit(),
        "device": device,
        "machine": platform.machine(),
        "system": platform.platform(),
        "cores": os.cpu_count(),
    }


def _commit() -> str | None:
    """The checkout's commit, with ``-dirty`` where files differ from it; None for an installed package."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None
