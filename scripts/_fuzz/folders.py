"""Damaged and hostile run folders: inspected, watched, reported, and opened to be evaluated and resumed."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import random
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from _fuzz import change, tensors
from _fuzz.canary import Canaries
from _fuzz.runs import Files, redigest, unfinished_run, write
from blip_rl.evaluation.rescore import evaluate_run
from blip_rl.reporting import figures, sections_network
from blip_rl.reporting.inspection import inspect_run
from blip_rl.reporting.inspection_text import inspection_text
from blip_rl.reporting.live import RunWatch
from blip_rl.reporting.page import write_report
from blip_rl.run import train

NO_LONGER_WHAT_IT_WAS = (ValueError, LookupError, TypeError, ArithmeticError, RecursionError, struct.error, csv.Error)
"""What comes of changing a file for a second time."""
_WAYS = {".toml": change.toml, ".json": change.json_text, ".csv": change.table, ".safetensors": tensors.tensor_file}
_DRAWN = 1 / 250  # of the reports with real pictures, which take seconds
_PIXEL = (b"<svg/>", b"png")
_SECRET = "what lies outside the folder"
_SPARSE_BYTES = 20 * 10**9


class Folders:
    """A run broken off in its second task, with some files changed, put away, or replaced by something else."""

    def __init__(self, folder: Path, canaries: Canaries) -> None:
        self._folder, self._canaries = folder / "run", canaries
        self._outside = folder / "outside"
        self._runs = [unfinished_run(folder / "seed", agent) for agent in ("blip", "clear", "single", "packnet", "sgp")]
        for files in self._runs:
            files["gifs/grid.gif"] = b"GIF89a" + bytes(60)

    def attempt(self, draw: random.Random) -> None:
        """One folder, opened by one verb."""
        files = dict(draw.choice(self._runs))
        for _ in range(draw.choice((1, 1, 2, 3))):
            changed(draw, files, self._canaries)
        if draw.random() < 0.8:
            redigest(files)
        write(files, self._folder)
        self._outside.write_text(_SECRET, encoding="utf-8")
        if draw.random() < 0.3:
            _replace(draw, self._folder, self._outside)
        try:
            draw.choice((self._inspect, self._watch, self._report, self._evaluate, self._resume))(draw)
        finally:
            assert self._outside.read_text(encoding="utf-8") == _SECRET, "a file outside the folder was changed"

    def _inspect(self, draw: random.Random) -> None:
        found = inspect_run(self._folder)
        json.dumps(found.to_json(), allow_nan=False)
        assert _SECRET not in inspection_text(found).encode("utf-8").decode(), "a file outside the folder was read"

    def _watch(self, draw: random.Random) -> None:
        watch = RunWatch(self._folder)
        lines = [watch.title, *(watch.look().line for _ in range(2))]
        assert _SECRET not in "".join(lines), "a file outside the folder was read"

    def _report(self, draw: random.Random) -> None:
        with contextlib.nullcontext() if draw.random() < _DRAWN else undrawn():
            written = write_report([self._folder], normalize=draw.choice(("recipe", "observed")))
        page = written.page.read_text(encoding="utf-8")
        assert _SECRET not in page, "a file outside the folder was read"
        assert "<script" not in page, "a script in the page"
        assert "onerror=alert(1)>" not in page.replace("&#34;&gt;&lt;img src=x onerror=alert(1)&gt;", ""), (
            "HTML in the page"
        )

    def _evaluate(self, draw: random.Random) -> None:
        evaluate_run(self._folder, episodes=1, workers=1, zero_shot=draw.random() < 0.2)

    def _resume(self, draw: random.Random) -> None:
        with opened_only():
            train.resume(self._folder, accept_changes=draw.random() < 0.7, threads=1, quiet=True)


def changed(draw: random.Random, files: Files, canaries: Canaries) -> None:
    """Change one file of a folder."""
    name = draw.choice(sorted(files))
    content, suffix = files[name], Path(name).suffix
    operation = draw.randrange(12)
    if operation == 0:
        del files[name]
    elif operation == 1:
        files[name] = draw.choice(canaries.files)
    elif operation == 2:
        files[name] = files[draw.choice(sorted(files))]
    elif operation == 3:
        other = draw.choice(("stage-02", "stage-00", "stage-²", "step-000000000999", "stage-99", "step-x", "a" * 90))
        files[f"checkpoints/{other}/{Path(name).name}"] = content
    elif operation == 4 and suffix == ".toml":
        files[name] = b"\xef\xbb\xbf" + content
    else:
        with contextlib.suppress(*NO_LONGER_WHAT_IT_WAS):
            files[name] = _WAYS.get(suffix, change.letters)(draw, content)


def _replace(draw: random.Random, folder: Path, outside: Path) -> None:
    """Put something that is no file where one is expected, or a link."""
    there = sorted(path for path in folder.rglob("*") if path.is_file())
    path = draw.choice(there)
    operation = draw.randrange(6)
    if operation == 5:
        with path.open("r+b") as file:
            file.truncate(_SPARSE_BYTES)
        return
    path.unlink()
    if operation == 0:
        os.mkfifo(path)
    elif operation == 1:
        path.symlink_to(
            draw.choice(("/dev/zero", outside.absolute(), "/proc/self/environ", "../../../x", "loop", path.name))
        )
    elif operation == 2:
        path.symlink_to(draw.choice(there).absolute())
    elif operation == 3:
        path.mkdir()
    else:
        path.write_bytes(b"")
        os.utime(path, (2**40, draw.choice((2**40, -(2**33), 0))))


@contextlib.contextmanager
def undrawn() -> Iterator[None]:
    """Everything of a report but the drawing itself."""
    drawn, png = vars(figures.FigureWriter)["_render"], sections_network.heatmaps.bits_png
    figures.FigureWriter._render = staticmethod(lambda *_, **__: _PIXEL)  # type: ignore[assignment, method-assign]
    sections_network.heatmaps.bits_png = lambda *_: b"png"
    try:
        yield
    finally:
        figures.FigureWriter._render = drawn  # type: ignore[method-assign]
        sections_network.heatmaps.bits_png = png


@contextlib.contextmanager
def opened_only() -> Iterator[None]:
    """Resume as far as the agent, its method and its games are what they were; no update is made."""
    learn, open_run, opened = train._learn, train._open, []

    def open_stage(run: Any, saved: Any) -> None:
        if saved is not None:
            with train._environments(run, saved.stage, saved):
                train.restore_task(run, saved)
                with run.agent.protected_by(run.method, resume=True):
                    run.method.frozen_bits()

    train._learn = open_stage
    train._open = lambda *arguments: opened.append(open_run(*arguments)) or opened[-1]
    try:
        yield
    finally:
        train._learn, train._open = learn, open_run
        for run in opened:
            run.logger.close()  # each has a thread, and a few thousand are more than there can be
