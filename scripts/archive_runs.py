"""Add the tables of finished runs to an archive, which leaderboard.py and tuning_table.py read like run folders.

    python scripts/archive_runs.py docs/results/runs/minatar.tar.xz sweeps/minatar

A run takes about 4 kB: recipe, command, environment, scores and speed, without checkpoints. It is named after its
folder and the one that holds it. Runs that are not finished are left out and named; one that is in the archive
already has to be equal.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from _run_archive import SUFFIX, exit_with_message, read_archive, reason_left_out, runs_in, tables_of, write_archive

from blip_rl.errors import UserError
from blip_rl.reporting.run_record import load_run


def main(arguments: Sequence[str] | None = None) -> None:
    """Update the archive."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", type=Path, metavar="ARCHIVE", help=f"NAME{SUFFIX}; made if it does not exist")
    parser.add_argument("folders", nargs="+", type=Path, metavar="RESULT_FOLDER")
    options = parser.parse_args(arguments)
    with exit_with_message():
        added, left_out = add_runs(options.archive, options.folders)
    for line in left_out:
        print(f"left out: {line}", file=sys.stderr)
    print(f"added {added} runs to {options.archive} ({options.archive.stat().st_size:,} bytes)")


def add_runs(archive: Path, folders: Sequence[Path]) -> tuple[int, list[str]]:
    """Add runs; return how many are new, and a line for each one that is left out.

    Raises:
        UserError: the archive or a folder is none, or a run of the same name has other tables.
    """
    if not archive.name.endswith(SUFFIX):
        raise UserError(f"'{archive}': expected a name that ends in {SUFFIX}")
    kept = read_archive(archive) if archive.exists() else {}
    before, left_out = len(kept), list[str]()
    for path in (run.resolve() for folder in folders for run in runs_in(folder)):
        if reason := reason_left_out(load_run(path)):
            left_out.append(f"'{path}': {reason}")
            continue
        name, tables = f"{path.parent.name}/{path.name}", tables_of(path)
        if kept.setdefault(name, tables) != tables:
            raise UserError(f"'{path}': the archive has a run {name} with other tables (rename one of the folders)")
    if not kept:
        raise UserError(f"no finished run in {', '.join(map(str, folders))}: expected at least one")
    if len(kept) > before:
        archive.parent.mkdir(parents=True, exist_ok=True)
        write_archive(archive, kept)
    return len(kept) - before, left_out


if __name__ == "__main__":
    main()
