"""Which progress a console shows, and when it prints lines."""

import io

import pytest

from blip_rl import console as console_module
from blip_rl.console import Console


@pytest.mark.parametrize(
    ("progress", "terminal", "bars", "lines"),
    [
        ("auto", True, True, False),
        ("auto", False, False, True),
        ("bar", False, True, False),
        ("log", True, False, True),
        ("off", True, False, False),
        (None, True, True, False),
        (None, False, False, False),
    ],
)
def test_mode_decides_between_bars_and_lines(monkeypatch, progress, terminal, bars, lines):
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal)
    shown = Console(False, progress)
    assert (shown.bars, shown.lines) == (bars, lines)
    silent = Console(True, progress)
    assert (silent.bars, silent.lines) == (False, False)


def test_lines_are_printed_every_30_seconds(monkeypatch, capsys):
    clock = [100.0]
    monkeypatch.setattr(console_module.time, "monotonic", lambda: clock[0])
    console = Console(False, "log")
    for seconds, now in ((29, False), (1, False), (29, False), (0, True), (29, False), (1, False)):
        clock[0] += seconds
        console.progress_line(lambda: f"at {clock[0]:.0f}", now=now)
    lines = [line.split("  ", 1)[1] for line in capsys.readouterr().out.splitlines()]
    assert lines == ["at 130", "at 159", "at 189"]


def test_a_long_count_prints_lines_into_a_log(monkeypatch, capsys):
    clock = [0.0]
    monkeypatch.setattr(console_module.time, "monotonic", lambda: clock[0])
    with Console(False, "log").counter("scoring pong", 10) as counter:
        for _ in range(10):
            clock[0] += 8
            counter.update(1)
    assert [line.split("  ", 1)[1] for line in capsys.readouterr().out.splitlines()] == [
        "scoring pong: 4 of 10 games",
        "scoring pong: 8 of 10 games",
    ]


def test_letters_that_a_stream_cannot_hold_are_escaped(monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(written, "latin-1"))
    Console(False, "log").say("kungfu 1.5 \N{RIGHTWARDS ARROW} 2")
    assert written.getvalue() == b"kungfu 1.5 \\u2192 2\n"
