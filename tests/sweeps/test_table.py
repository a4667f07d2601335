"""The table of a sweep on a terminal, and its lines elsewhere."""

import io
import re

import pytest

from blip_rl.records import SpeedRow, columns
from blip_rl.storage.step_counter import write_steps
from blip_rl.sweeps import table as table_module
from blip_rl.sweeps.job import Outcome
from blip_rl.sweeps.schedule import JobState
from blip_rl.sweeps.table import Table
from tests.reporting.report_runs import make_run, write_table
from tests.sweeps.small_sweeps import small_manifest


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def states(tmp_path):
    """Four jobs: one at step 600 of 3,000 at 100 steps/s, one that waits, one that failed, and one that is finished."""
    running, waiting, failed, finished = (JobState(job) for job in small_manifest(seeds="0-3").jobs(tmp_path))
    make_run(running.job.path, stages=1)
    write_steps(running.job.path, 600)
    write_table(running.job.path / "speed.csv", columns(SpeedRow), [[600, 1, 100.0, 1]])
    running.state, running.where = "running", "process 7"
    failed.state, failed.outcome = "failed", Outcome(failed.job.name, "failed", "the game is broken")
    finished.state = "finished"
    return [running, waiting, failed, finished]


def shown(states, stream, **options):
    table = Table({one.job.name: 3000 for one in states}, stream=stream, **options)
    table.show(states)
    return table


def test_a_terminal_shows_the_runs_that_are_not_finished_and_the_time_that_is_left(states, monkeypatch):
    monkeypatch.setattr(table_module.shutil, "get_terminal_size", lambda: (140, 24))
    stream = Terminal()
    table = shown(states, stream, earlier=2)
    lines = stream.getvalue().splitlines()
    # 3,000 steps of the waiting run and what is left of the other, at the rate of the one that runs.
    assert lines[0].startswith("3 of 6 runs finished, 1 running, 1 failed, 1 waiting, 100 steps/s, about ")
    assert re.search(r"seed0 +running +process 7 +[\d,]+/3,000 +100/s +\d+ s", lines[2])
    assert [line.split()[1] for line in lines[2:]] == ["running", "failed", "waiting"]
    states[1].state = "running"
    table.show(states)
    assert stream.getvalue().count("\x1b[5F\x1b[J") == 1  # in place of the five lines


def test_a_small_terminal_shows_as_many_runs_as_fit(states, monkeypatch):
    monkeypatch.setattr(table_module.shutil, "get_terminal_size", lambda: (60, 6))
    stream = Terminal()
    shown(states, stream)
    lines = stream.getvalue().splitlines()
    assert len(lines) < 6
    assert lines[-1] == "and 1 more"
    assert all(len(line) < 60 for line in lines)


def test_lines_are_printed_for_changes_only(states):
    stream = io.StringIO()
    table = shown(states, stream)
    lines = [line[10:] for line in stream.getvalue().splitlines()]
    names = [one.job.name for one in states]
    assert lines[:3] == [
        f"{names[0]} running (process 7)",
        f"{names[2]} failed: the game is broken",
        f"{names[3]} finished",
    ]
    assert lines[3].startswith("1 of 4 runs finished, 1 running")
    table.show(states)
    assert len(stream.getvalue().splitlines()) == 4
    states[0].state, states[0].retries = "waiting", 1
    states[0].outcome = Outcome(names[0], "lost", "its process was ended by SIGKILL")
    table.show(states)
    assert stream.getvalue().splitlines()[4][10:] == (
        f"{names[0]} waiting again (retry 1) (process 7): its process was ended by SIGKILL"
    )


def test_a_terminal_that_is_gone_does_not_end_a_sweep(states):
    class Gone(Terminal):
        def write(self, text):
            raise OSError(5, "Input/output error")

    shown(states, Gone())


def test_steps_never_exceed_their_total(states, monkeypatch):
    monkeypatch.setattr(table_module.shutil, "get_terminal_size", lambda: (140, 24))
    write_steps(states[0].job.path, 3_100)
    stream = Terminal()
    shown(states, stream)
    assert re.search(r"seed0 +running +process 7 +3,000/3,000 +100/s +0 s", stream.getvalue())
