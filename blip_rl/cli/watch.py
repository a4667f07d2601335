"""``blip-rl watch``: follow runs from their folders, in a terminal or a log file."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from blip_rl.cli.options import complete_folders
from blip_rl.errors import RunError
from blip_rl.shell import shell_command
from blip_rl.untrusted.files import printable

if TYPE_CHECKING:  # imports NumPy and pydantic
    from blip_rl.reporting.live import RunState

_LOOK_SECONDS = 2.0
_LINE_SECONDS = 30.0
_BAR = 20  # characters


@click.command(
    short_help="Follow the progress of runs.",
    epilog="Reads the run folders alone, so it also works over ssh or on a shared file system. Ctrl-C ends the display "
    "only; the runs continue.",
)
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path), shell_complete=complete_folders)
def watch(runs: tuple[Path, ...]) -> None:
    """Show steps, speed, remaining time and newest scores of the run folders RUNS until they are finished.

    On a terminal the display is refreshed; otherwise a line is printed every 30 s and after each evaluation. Exits with
    code 1 if a run was stopped or killed.
    """
    from blip_rl.storage.paths import check_run

    for run in runs:
        check_run(run)
    from blip_rl.reporting.live import RunWatch

    watches = [RunWatch(run) for run in runs]
    for one in watches:
        click.echo(printable(f"{one.path}: {one.title}"))
    display = Display([one.path.resolve().name for one in watches])
    states = [one.look() for one in watches]
    while any(state.status == "running" for state in states):
        display.show(states)
        time.sleep(_LOOK_SECONDS)
        states = [one.look() for one in watches]
    display.show(states, last=True)
    stopped = [one.path for one, state in zip(watches, states, strict=True) if state.status == "stopped"]
    if stopped:
        commands = "; ".join(shell_command("blip-rl", "train", "--resume", path) for path in stopped)
        names = ", ".join(f"'{path}'" for path in stopped)
        raise RunError(f"no process is training {names} (stopped or killed); resume with: {commands}")


class Display:
    """Shows the states of runs: refreshed in place on a terminal, otherwise as lines."""

    def __init__(self, names: Sequence[str]) -> None:
        """Create a display of runs; their names are shown only if there are several."""
        width = max(map(len, names))
        self._names = [f"{printable(name):{width}}  " if len(names) > 1 else "" for name in names]
        self._terminal = sys.stdout.isatty()
        self._height = 0  # lines on the screen that the next call replaces
        self._last = [(-_LINE_SECONDS, "", "")] * len(names)  # time, status and scores of the last line

    def show(self, states: Sequence[RunState], *, last: bool = False) -> None:
        """Show the states of all runs; lines only if 30 s have passed, or a score or a status has changed.

        Args:
            states: One for each run.
            last: Whether these are the final states, of which every run gets a line.
        """
        if self._terminal:
            self._refresh(states)
            return
        for number, (name, state) in enumerate(zip(self._names, states, strict=True)):
            now, shown = time.monotonic(), (state.status, state.scores_text)
            if now - self._last[number][0] >= _LINE_SECONDS or shown != self._last[number][1:] or last:
                self._last[number] = (now, *shown)
                click.echo(f"{time.strftime('%H:%M:%S')}  {name}{printable(state.line)}")

    def _refresh(self, states: Sequence[RunState]) -> None:
        columns = shutil.get_terminal_size().columns
        lines = []
        for name, state in zip(self._names, states, strict=True):
            done = round(_BAR * state.share)
            bar = "█" * done + "░" * (_BAR - done)
            lines.append(f"{name}{bar} {state.share:4.0%}  {state.position}")
            lines.append(f"{' ' * len(name)}{state.scores_text or 'no scores yet'}")
        text = "\n".join(printable(line)[: columns - 1] for line in lines)
        up = f"\x1b[{self._height}F\x1b[J" if self._height else ""
        click.echo(f"{up}{text}")
        self._height = len(lines)
