"""Archives of result folders: the tables of finished runs, small enough for the repository."""

from __future__ import annotations

import io
import lzma
import re
import shlex
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from _measure import without_paths

from blip_rl.errors import UserError
from blip_rl.reporting.run_record import RunRecord, is_run
from blip_rl.shell import shell_command
from blip_rl.storage.atomic import replacing

TABLES = ("config.toml", "command.txt", "environment.json", "scores.csv", "speed.csv")
SUFFIX = ".tar.xz"
_NAME = re.compile(r"(?!\.)[^/\\]+/(?!\.)[^/\\]+")  # two folders: the run and the one that holds it
Runs = dict[str, dict[str, bytes]]
"""Folder and name of a run → name of a file in it → its bytes."""


def tables_of(run: Path) -> dict[str, bytes]:
    """Read the tables of a run, its command without paths of the machine that it ran on.

    Raises:
        UserError: its command cannot be read.
    """
    found = {name: (run / name).read_bytes() for name in TABLES if (run / name).is_file()}
    if "command.txt" in found:
        try:
            words = shlex.split(found["command.txt"].decode("utf-8", errors="replace"))
        except ValueError as error:
            raise UserError(f"'{run / 'command.txt'}' is no command line: {error} (restore it)") from error
        found["command.txt"] = (shell_command(*without_paths(words)) + "\n").encode()
    return found


def read_archive(path: Path) -> Runs:
    """Read an archive.

    Raises:
        UserError: it is none.
    """
    runs: Runs = {}
    try:
        with tarfile.open(path, "r:xz") as archive:
            for entry in archive:
                run, _, name = entry.name.rpartition("/")
                content = archive.extractfile(entry)
                if content is None or name not in TABLES or not _NAME.fullmatch(run):
                    raise UserError(f"'{path}': '{entry.name}' is not expected there: it is no archive of runs")
                runs.setdefault(run, {})[name] = content.read()
    except (tarfile.TarError, lzma.LZMAError, EOFError) as error:
        raise UserError(f"'{path}' cannot be read: {error} (restore it, for example from git)") from error
    return runs


def write_archive(path: Path, runs: Runs) -> None:
    """Write an archive: equal runs give equal bytes."""
    with replacing(path) as beside, tarfile.open(beside, "w:xz", preset=9) as archive:
        for run in sorted(runs):
            for name, content in sorted(runs[run].items()):
                entry = tarfile.TarInfo(f"{run}/{name}")
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))


def reason_left_out(run: RunRecord) -> str:
    """Return why a run is not counted; empty if it is."""
    if damaged := [problem for problem in run.problems if problem.startswith(("config.toml", "scores.csv"))]:
        return damaged[0]
    return "" if run.scores is not None and run.learned == run.stages else "not finished"


def runs_in(folder: Path) -> list[Path]:
    """Return the run folders in a folder, at any depth, or the folder itself if it is one.

    Raises:
        UserError: there is none.
    """
    if is_run(folder):
        return [folder]
    found = sorted({path.parent for path in folder.rglob("config.toml") if (path.parent / "scores.csv").is_file()})
    if not found:
        raise UserError(f"'{folder}' holds no run: expected a run folder, or a folder with run folders in it")
    return found


@contextmanager
def exit_with_message() -> Iterator[None]:
    """Print what is wrong with a script's input as one line and exit with 2."""
    try:
        yield
    except (UserError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(2)


@contextmanager
def unpacked(paths: Sequence[Path]) -> Iterator[dict[Path, str]]:
    """Yield all run folders in folders and archives, with names for messages.

    Those of archives are deleted at the end of the block.

    Raises:
        UserError: a folder holds no run, or an archive cannot be read.
    """
    with tempfile.TemporaryDirectory(prefix="blip-rl-runs-") as made:
        found = dict[Path, str]()
        for number, path in enumerate(paths):
            if not path.name.endswith(SUFFIX):
                found |= {run: f"'{run}'" for run in runs_in(path)}
                continue
            for run, files in read_archive(path).items():
                folder = Path(made, str(number), run)
                folder.mkdir(parents=True)
                for name, content in files.items():
                    (folder / name).write_bytes(content)
                found[folder] = f"'{path}': {run}"
        yield found
