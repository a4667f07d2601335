"""The run folder: paths, locking, and reading and writing of its tables.

It holds everything a report needs as text: ``config.toml``, ``command.txt``, ``environment.json``, ``scores.csv``,
``returns.csv``, ``bits.csv``, ``plasticity.csv``, ``speed.csv``, TensorBoard event files and ``checkpoints/``.
"""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from blip_rl.config import RunConfig
from blip_rl.errors import UserError
from blip_rl.records import (
    BitsRow,
    PlasticityRow,
    ReturnRow,
    ScoreRow,
    SpeedRow,
    cells,
    columns,
    episode_key,
    read_rows,
)
from blip_rl.storage import atomic, integrity, provenance
from blip_rl.storage.lock import locked
from blip_rl.storage.new_folder import make_folder, stamped
from blip_rl.storage.paths import check_new_run, check_parent, check_run
from blip_rl.storage.snapshot_names import snapshot_folders, snapshot_order
from blip_rl.storage.step_counter import STEP_COUNTER, read_steps, write_steps
from blip_rl.untrusted.files import read_text

_PROBE_SECONDS = 0.1  # longer than lock.is_locked holds the lock of a run that is watched
_MERGE_SECONDS = 60.0  # to wait for a process that stores scores, which takes less than a second


class RunFolder:
    """Paths and writers of one run folder. Every method that adds rows opens, appends and closes the file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._numbered = False
        self.scores = path / "scores.csv"
        self.returns = path / "returns.csv"
        self.bits = path / "bits.csv"
        self.plasticity = path / "plasticity.csv"
        self.speed = path / "speed.csv"
        self.config = path / "config.toml"

    @staticmethod
    def planned(path: Path, *, numbered: bool = False) -> RunFolder:
        """Return a folder that a new run may create; nothing is written yet.

        Args:
            path: Path of the folder.
            numbered: Whether to append a number to the name if it is taken.

        Raises:
            UserError: something is there already, or it cannot be created there.
        """
        if numbered:
            check_parent(path)
        else:
            check_new_run(path)
        folder = RunFolder(path)
        folder._numbered = numbered
        return folder

    @staticmethod
    def existing(path: Path) -> RunFolder:
        """Return the folder of an existing run.

        Raises:
            UserError: ``path`` is not a run folder.
        """
        check_run(path)
        return RunFolder(path)

    def create(self, config_toml: str, device: str, seeds: dict[str, Any]) -> RunFolder:
        """Create the folder with its tables and ``config.toml``; replace the remains of a killed process there.

        Returns:
            The folder; a number may have been appended to its name.

        Raises:
            UserError: Another process has created a run there in the meantime, or is doing so.
            OSError: The disk is full or not writable; the folder is removed.
        """
        if self._numbered:
            return RunFolder(make_folder(self.path)).create(config_toml, device, seeds)
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            with self.locked():
                check_new_run(self.path)
                self._write_new(config_toml, device, seeds)
        except OSError:
            with suppress(OSError):
                self.path.rmdir()  # if the lock could not be written
            raise
        return self

    def _write_new(self, config_toml: str, device: str, seeds: dict[str, Any]) -> None:
        try:
            for name in integrity.TABLES:  # left by a killed process
                (self.path / name).unlink(missing_ok=True)
            atomic.replace_text(self.path / "command.txt", provenance.command() + "\n")
            metadata = {**provenance.environment(device), "seeds": seeds, **provenance.recipe_digest(config_toml)}
            atomic.replace_text(self.path / "environment.json", json.dumps(metadata, indent=2) + "\n")
            self.begin_tables()
            atomic.replace_text(self.config, config_toml)  # last: a folder with a recipe can be resumed
        except OSError:
            shutil.rmtree(self.path, ignore_errors=True)
            raise

    def stage_path(self, stage: int) -> Path:
        """Return the path of the checkpoint of a stage."""
        return self.path / "checkpoints" / f"stage-{stage:02d}"

    def stages(self) -> list[int]:
        """Return the numbers of the stages that have a checkpoint, in ascending order."""
        found = (self.path / "checkpoints").glob("stage-*")
        numbers = (int(path.name[6:]) for path in found if _is_number(path.name[6:]))
        return sorted(number for number in numbers if number > 0)  # stages are counted from 1

    def snapshots(self) -> list[Path]:
        """Return the snapshot folders, oldest first."""
        return snapshot_folders(self.path / "checkpoints")

    def forget_snapshots(self, after: Path | None = None) -> None:
        """Remove the snapshots newer than ``after``, oldest first; by default all of them."""
        for path in self.snapshots():
            if after is None or snapshot_order(path) > snapshot_order(after):
                atomic.remove_folder(path)

    def forget_stages(self, first: int) -> None:
        """Remove the checkpoints of stage ``first`` and all later stages."""
        for stage in self.stages():
            if stage >= first:
                atomic.remove_folder(self.stage_path(stage))

    def finish(self) -> None:
        """Flush the tables, then remove snapshots and the step counter, which only an unfinished run needs."""
        integrity.flush(self.path)
        (self.path / STEP_COUNTER).unlink(missing_ok=True)
        self.forget_snapshots()

    def note_steps(self, env_steps: int) -> None:
        """Store the number of completed training steps, so that a resume can report how many are lost."""
        write_steps(self.path, env_steps)

    def noted_steps(self) -> int:
        """Return the number stored by :meth:`note_steps`; 0 if it is missing or unreadable."""
        return read_steps(self.path)

    def finished(self, stages: int) -> bool:
        """Return whether the last stage is saved and no snapshot is left."""
        return stages in self.stages() and not self.snapshots()

    @contextmanager
    def locked(self, wait_seconds: float = _PROBE_SECONDS) -> Iterator[None]:
        """Hold the folder's lock, required to change its recipe, tables or checkpoints.

        Reports, pictures and exports only replace files of their own atomically and do not need it, so that they can
        be made during training.

        Args:
            wait_seconds: How long to wait for another process.

        Raises:
            UserError: Another process holds the lock.
            OSError: The folder is not writable.
        """
        with ExitStack() as held:
            try:
                held.enter_context(locked(self.path / ".lock", wait_seconds))
            except TimeoutError as error:
                raise UserError(f"another process is writing '{self.path}': wait for it, or stop it first") from error
            for folder in (self.path, self.path / "checkpoints"):
                atomic.recover(folder)
            yield

    def check_writable(self) -> None:
        """Check that files in the folder can be replaced.

        Raises:
            OSError: They cannot.
        """
        with self.locked(_MERGE_SECONDS):
            atomic.check_writable(self.path)

    def recipe(self) -> str:
        """Return the text of ``config.toml``."""
        return read_text(self.config)

    def command(self) -> str:
        """Return the command line that started the run."""
        return read_text(self.path / "command.txt")

    def reset_tables(self) -> None:
        """Replace all tables and event files by empty tables, for a run stopped before its first snapshot."""
        integrity.remove_growing(self.path)
        self.begin_tables()

    def begin_tables(self) -> None:
        """Write the header of every missing table; runs of earlier versions lack some."""
        tables = {
            self.scores: ScoreRow,
            self.returns: ReturnRow,
            self.bits: BitsRow,
            self.plasticity: PlasticityRow,
            self.speed: SpeedRow,
        }
        for path, row_type in tables.items():
            if not path.exists():
                _append(path, [columns(row_type)])

    def add_scores(self, rows: Iterable[ScoreRow]) -> None:
        """Append to ``scores.csv``."""
        _append(self.scores, [cells(row) for row in rows])

    def replace_scores(self, rows: Sequence[ScoreRow]) -> None:
        """Write rows to ``scores.csv``, replacing those of the same stage, phase, task, seed and action mode.

        Episodes with other seeds are kept. The table is read and replaced under the folder's lock, so that several
        processes may store scores at the same time.

        Raises:
            UserError: The table is damaged, or another process holds the lock for too long.
            OSError: The table cannot be written; it is unchanged then.
        """
        replaced = {episode_key(row) for row in rows}
        with self.locked(_MERGE_SECONDS):
            kept = [row for row in self.read_scores() if episode_key(row) not in replaced]
            with atomic.replacing(self.scores) as beside:
                _append(beside, [columns(ScoreRow), *(cells(row) for row in [*kept, *rows])])

    def read_scores(self) -> list[ScoreRow]:
        """Return all rows of ``scores.csv``.

        Raises:
            UserError: The file is missing or damaged.
        """
        found = []
        for line, row in read_rows(self.scores, ScoreRow):
            if isinstance(row, ValueError):
                raise UserError(f"'{self.scores}' cannot be read as scores: line {line}: {row}") from row
            found.append(row)
        return found

    def add_returns(self, rows: Iterable[ReturnRow]) -> None:
        """Append to ``returns.csv``."""
        _append(self.returns, [cells(row) for row in rows])

    def read_returns(self) -> list[ReturnRow]:
        """Return the rows of ``returns.csv`` without damaged ones.

        Raises:
            UserError: The file is missing.
        """
        return [row for _, row in read_rows(self.returns, ReturnRow) if isinstance(row, ReturnRow)]

    def add_bits(self, rows: Iterable[BitsRow]) -> None:
        """Append to ``bits.csv``."""
        _append(self.bits, [cells(row) for row in rows])

    def add_plasticity(self, rows: Iterable[PlasticityRow]) -> None:
        """Append to ``plasticity.csv``."""
        _append(self.plasticity, [cells(row) for row in rows])

    def add_speed(self, row: SpeedRow) -> None:
        """Append to ``speed.csv``."""
        _append(self.speed, [cells(row)])


def planned_folder(out: Path | None, config: RunConfig) -> RunFolder:
    """Return the folder that a new run may create; by default ``runs/<sequence>-<agent>-seed<seed>-<time>``.

    Raises:
        UserError: ``out`` exists, or it cannot be created there.
    """
    if out is not None:
        return RunFolder.planned(out)
    stem = f"{config.sequence_name[:80]}-{config.agent_name[:40]}-seed{config.seed}"
    return RunFolder.planned(stamped(stem), numbered=True)


def _is_number(text: str) -> bool:
    """Return whether text consists of ASCII digits only."""
    return text.isascii() and text.isdecimal()


def _append(path: Path, rows: Iterable[Sequence[str]]) -> None:
    if path.exists() and path.stat().st_nlink > 1:
        atomic.separate(path)
    with path.open("a", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)
