"""What a sweep would do: runs, hours and disk. Writes nothing."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from blip_rl.formatting import aligned, duration
from blip_rl.run.dry_run import similar_speed
from blip_rl.sweeps.estimate import Needs
from blip_rl.sweeps.manifest import Manifest
from blip_rl.untrusted.machine import in_words


@dataclass(frozen=True)
class _Setting:
    """A setting: its needs, its runs, those that are not finished, and the seconds of one; None if unknown."""

    name: str
    needs: Needs
    runs: int
    left: int
    seconds: float | None

    @property
    def cells(self) -> list[str]:
        """The row of the table."""
        time = "unknown" if self.seconds is None else duration(self.seconds)
        resources = self.needs.resources
        sizes = [in_words(resources.memory), in_words(resources.final_disk)]
        return [self.name, str(self.runs), str(self.left), f"{self.needs.config.all_played_steps:,}", time, *sizes]


def dry_run_text(
    folder: Path, manifest: Manifest, needs: Mapping[str, Needs], finished: Collection[str], jobs: int
) -> str:
    """Describe what a sweep would do.

    Args:
        folder: The sweep's folder.
        manifest: All runs.
        needs: Of each setting.
        finished: Names of the runs that are finished.
        jobs: Runs at a time.
    """
    settings = [_setting(name, need, folder, manifest, finished) for name, need in needs.items()]
    head = ["setting", "runs", "left", "steps of a run", "time of a run", "memory", "disk"]
    return "\n".join(
        [
            "dry run: nothing is trained and nothing is written; memory, disk and time are estimates",
            f"sweep {folder}: {len(manifest.runs):,} runs, {sum(one.left for one in settings):,} of them not finished",
            *aligned([head, *(one.cells for one in settings)], left=1),
            *aligned([["time", _time_text(settings, folder, jobs)], ["disk", _disk_text(settings, folder, jobs)]]),
        ]
    )


def _setting(name: str, needs: Needs, folder: Path, manifest: Manifest, finished: Collection[str]) -> _Setting:
    runs = [run.name for run in manifest.runs if run.setting == name]
    left = sum(run not in finished for run in runs)
    return _Setting(name, needs, len(runs), left, _seconds(needs, folder, manifest.threads))


def _seconds(needs: Needs, folder: Path, threads: int) -> float | None:
    """Return the time that learning takes in a run; None if no similar run was made here.

    A sweep in the folder of another one, such as a rehearsal, is timed by the runs of that one.
    """
    for place in (folder, folder.absolute().parent, Path("runs")):
        if (speed := similar_speed(needs.config, place, needs.device, threads)) is not None:
            return needs.config.all_played_steps / speed[1]
    return None


def _time_text(settings: list[_Setting], folder: Path, jobs: int) -> str:
    known = [one for one in settings if one.seconds is not None]
    if not known:
        return f"unknown: no similar run in '{folder}', beside it or in 'runs'"
    seconds = sum(one.left * (one.seconds or 0.0) for one in known) / jobs
    unknown = sum(one.left for one in settings if one.seconds is None)
    without = f", without {unknown} runs of unknown speed" if unknown else ""
    return f"about {duration(seconds)} of training with {jobs} runs at a time{without}, plus evaluations"


def _disk_text(settings: list[_Setting], folder: Path, jobs: int) -> str:
    """Return the disk that runs take in the end, and their snapshots while they are made."""
    end = sum(one.left * one.needs.resources.final_disk for one in settings)
    snapshots = max((one.needs.resources.disk - one.needs.resources.final_disk for one in settings), default=0)
    free = shutil.disk_usage(next(path for path in folder.absolute().parents if path.exists())).free
    return f"up to {in_words(end + jobs * snapshots)}, {in_words(end)} in the end ({in_words(free)} free)"
