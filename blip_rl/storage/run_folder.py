"""The run folder: paths, locking, and reading and writing of its tables.

It holds everything a report needs as text: ``config.toml``, ``command.txt``, ``environment.json``, ``scores.csv``,
``returns.csv``, ``bits.csv``, ``plasticity.csv``, ``speed.csv``, TensorBoard event files and ``checkpoints/``.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from blip_rl.config import RunConfig
from blip_rl.errors import UserError
from blip_rl.records import BitsRow, PlasticityRow, ReturnRow, ScoreRow, SpeedRow, episode_key, read_rows
from blip_rl.storage import atomic, integrity, provenance, tables
from blip_rl.storage.integrity import RunFiles
from blip_rl.storage.lock import HeldLock, locked
from blip_rl.storage.new_folder import make_folder, stamped
from blip_rl.storage.paths import LOCK, check_new_run, check_parent, check_run
from blip_rl.storage.snapshot_names import entries, snapshot_folders, snapshot_order
from blip_rl.storage.step_counter import STEP_COUNTER, read_steps, write_steps
from blip_rl.untrusted.files import read_text

_PROBE_SECONDS = 0.1  # longer than lock.is_locked holds the lock of a run that is watched
_MERGE_SECONDS = 60.0  # to wait for a process that stores scores, which takes less than a second


class RunFolder:
    """Paths and writers of one run folder. Every method that adds rows opens, appends and closes the file.

    Once another process has taken a :meth:`locked` folder over, methods that change it raise TakenOverError instead.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._numbered = False
        self._lock: HeldLock | None = None
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

    def create(self, config_toml: str, device: str, seeds: dict[str, Any], *, take_over: bool = False) -> RunFolder:
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
            with self.locked(take_over=take_over):
                check_new_run(self.path)
                self._write_new(config_toml, device, seeds)
        except OSError:
            with suppress(OSError):  # if the lock could not be written
                (self.path / LOCK).unlink(missing_ok=True)
                self.path.rmdir()
            raise
        return self

    def _write_new(self, config_toml: str, device: str, seeds: dict[str, Any]) -> None:
        try:
            for name in integrity.TABLES:  # left by a killed process
                atomic.remove(self.path / name, self.check_lock)
            atomic.replace_text(self.path / "command.txt", provenance.command() + "\n", self.check_lock)
            metadata = {**provenance.environment(device), "seeds": seeds, **provenance.recipe_digest(config_toml)}
            atomic.replace_text(self.path / "environment.json", json.dumps(metadata, indent=2) + "\n", self.check_lock)
            self.begin_tables()
            atomic.replace_text(
                self.config, config_toml, self.check_lock
            )  # last: a folder with a recipe can be resumed
        except OSError:
            self.check_lock()  # otherwise the folder is another process's
            shutil.rmtree(self.path, ignore_errors=True)
            raise

    def stage_path(self, stage: int) -> Path:
        """Return the path of the checkpoint of a stage."""
        return self.path / "checkpoints" / f"stage-{stage:02d}"

    def stages(self) -> list[int]:
        """Return the numbers of the stages that have a checkpoint, in ascending order."""
        found = (path.name for path in entries(self.path / "checkpoints") if path.name.startswith("stage-"))
        numbers = (int(name[6:]) for name in found if _is_number(name[6:]))
        return sorted(number for number in numbers if number > 0)  # stages are counted from 1

    def snapshots(self) -> list[Path]:
        """Return the snapshot folders, oldest first."""
        return snapshot_folders(self.path / "checkpoints")

    def forget_snapshots(self, after: Path | None = None) -> None:
        """Remove the snapshots newer than ``after``, oldest first; by default all of them."""
        for path in self.snapshots():
            if after is None or snapshot_order(path) > snapshot_order(after):
                atomic.remove(path, self.check_lock)

    def forget_stages(self, first: int) -> None:
        """Remove the checkpoints of stage ``first`` and all later stages."""
        for stage in self.stages():
            if stage >= first:
                atomic.remove(self.stage_path(stage), self.check_lock)

    def finish(self) -> None:
        """Flush the tables, then remove snapshots and the step counter, which only an unfinished run needs."""
        integrity.flush(self.path)
        self.check_lock()
        (self.path / STEP_COUNTER).unlink(missing_ok=True)
        self.forget_snapshots()

    def note_steps(self, env_steps: int) -> None:
        """Store the number of completed training steps, so that a resume can report how many are lost."""
        self.check_lock()
        write_steps(self.path, env_steps)  # of a suspended process: a number that is too small, used for a message only

    def noted_steps(self) -> int:
        """Return the number stored by :meth:`note_steps`; 0 if it is missing or unreadable."""
        return read_steps(self.path)

    def finished(self, stages: int) -> bool:
        """Return whether the last stage is saved and no snapshot is left."""
        return stages in self.stages() and not self.snapshots()

    @contextmanager
    def locked(self, wait_seconds: float = _PROBE_SECONDS, *, take_over: bool = False) -> Iterator[None]:
        """Hold the folder's lock, required to change its recipe, tables or checkpoints.

        Reports, pictures and exports only replace files of their own atomically and do not need it, so that they can
        be made during training.

        Args:
            wait_seconds: How long to wait for another process.
            take_over: Whether to take the lock from a process that holds it longer, because it is suspended or its
                machine is lost. If it continues, it stops at its next write.

        Raises:
            UserError: Another process holds the lock.
            OSError: The folder is not writable.
        """
        with ExitStack() as held:
            try:
                lock = held.enter_context(locked(self.path / LOCK, wait_seconds, take_over=take_over))
            except TimeoutError as error:
                raise UserError(
                    f"another process is writing '{self.path}': wait for it, or stop it first ({error}; if it is "
                    "frozen or its machine is lost, resume the run with --take-over)"
                ) from error
            self.recover(from_suspended=lock.from_another)
            self._lock = lock
            held.callback(setattr, self, "_lock", None)
            yield

    def recover(self, *, from_suspended: bool = False) -> None:
        """Clean up after processes that were killed while they wrote, as :func:`atomic.recover`; needs no lock."""
        for folder in (self.path, self.path / "checkpoints"):
            atomic.recover(folder, from_suspended=from_suspended)

    def check_lock(self) -> None:
        """Check that no other process has taken the run over, if this process has locked it.

        Raises:
            TakenOverError: One has.
        """
        if self._lock is not None:
            self._lock.check()

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
        integrity.remove_growing(self.path, self.check_lock)
        self.begin_tables()

    def cut_tables(self, then: RunFiles) -> None:
        """Cut tables and event files back to their sizes at a snapshot, as :func:`integrity.truncate`."""
        integrity.truncate(self.path, then, self.check_lock)
        self.begin_tables()

    def begin_tables(self) -> None:
        """Write the header of every missing table; runs of earlier versions lack some."""
        tables.begin(self.path, self.check_lock)

    def add_scores(self, rows: Iterable[ScoreRow]) -> None:
        """Append to ``scores.csv``."""
        tables.append(self.scores, rows, self.check_lock)

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
            tables.rewrite_scores(self.scores, [*kept, *rows], self.check_lock)

    def read_scores(self) -> list[ScoreRow]:
        """Return all rows of ``scores.csv``; raise UserError if it is missing or damaged."""
        return tables.read_scores(self.scores)

    def add_returns(self, rows: Iterable[ReturnRow]) -> None:
        """Append to ``returns.csv``."""
        tables.append(self.returns, rows, self.check_lock)

    def read_returns(self) -> list[ReturnRow]:
        """Return the rows of ``returns.csv`` without damaged ones.

        Raises:
            UserError: The file is missing.
        """
        return [row for _, row in read_rows(self.returns, ReturnRow) if isinstance(row, ReturnRow)]

    def add_bits(self, rows: Iterable[BitsRow]) -> None:
        """Append to ``bits.csv``."""
        tables.append(self.bits, rows, self.check_lock)

    def add_plasticity(self, rows: Iterable[PlasticityRow]) -> None:
        """Append to ``plasticity.csv``."""
        tables.append(self.plasticity, rows, self.check_lock)

    def add_speed(self, row: SpeedRow) -> None:
        """Append to ``speed.csv``."""
        tables.append(self.speed, [row], self.check_lock)


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
