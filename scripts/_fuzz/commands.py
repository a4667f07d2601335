"""Target: random command lines, passed to the program's ``main``; training is replaced by a stub."""

from __future__ import annotations

import contextlib
import io
import os
import random
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from _fuzz import change
from _fuzz.folders import undrawn
from _fuzz.runs import unfinished_run, write
from _fuzz.watch import check_ending
from blip_rl.cli import program
from blip_rl.evaluation import rescore
from blip_rl.run import train
from blip_rl.shell import shell_command
from blip_rl.video import render
from blip_rl.video.grid import Clip
from blip_rl.video.recorder import RecordedCell

_WORKING_FOLDER = "a/b/c/d"
"""Nested, so that paths such as ``..`` stay inside."""
_VALUES = (
    "run", "runs", "run/config.toml", "nowhere", "new", "mine.toml", "cartpole-a", "cartpole-a,cartpole-b",
    "CartPole-v1", "ppo.learning_rate=1e-4", "ppo.epochs=none", "method.name=ewc", "ppo.learning_rate", "games",
    "agents", "sequences", "methods", "finetune", "blip", "500k", "1", "2", "5", "cpu", "auto", "gif", "webp",
    "mp4", "median", "best", "1000003", "recipe", "observed", "-1", "0.5", "-", "--", "-h", "@", "=", "*",
)  # fmt: skip


class Commands:
    """A working folder with one run, and a random command in it."""

    def __init__(self, folder: Path) -> None:
        self._files = {f"run/{name}": content for name, content in unfinished_run(folder / "seed", "blip").items()}
        self._files["mine.toml"] = b'description = "mine"\n[[tasks]]\nname = "a"\ngame = "CartPole-v1"\n'
        self._folder = folder / _WORKING_FOLDER
        self._verbs = dict(program.cli.commands)

    def attempt(self, draw: random.Random) -> None:
        """Run one command line."""
        arguments = self._arguments(draw)
        write(self._files, self._folder)
        before, output, errors = Path.cwd(), _encoding("strict"), _encoding("backslashreplace")
        os.chdir(self._folder)
        arguments_before, sys.argv = sys.argv, ["blip-rl", *arguments]
        code: object = 0
        try:
            with _stubs(), undrawn(), contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
                program.main()
        except SystemExit as end:
            code = end.code
        finally:
            sys.argv = arguments_before
            os.chdir(before)
        for stream in (output, errors):
            stream.flush()
        check_ending(code, shell_command(*arguments)[:300], errors.buffer.getvalue().decode("utf-8"))
        raise SystemExit(code)

    def _arguments(self, draw: random.Random) -> list[str]:
        name = draw.choice(sorted(self._verbs))
        verb = self._verbs[name]
        arguments = [name if draw.random() < 0.97 else _value(draw)]
        places = [parameter for parameter in verb.params if isinstance(parameter, click.Argument)]
        arguments += [
            "run" if draw.random() < 0.8 and place.name != "kind" else _value(draw)
            for place in places
            if draw.random() < 0.9
        ]
        options = [parameter for parameter in verb.params if isinstance(parameter, click.Option)]
        for option in draw.choices(options, k=draw.choice((0, 1, 1, 2, 3))) if options else ():
            arguments += _option(draw, option)
        if draw.random() < 0.1:
            arguments.insert(draw.randrange(len(arguments) + 1), _value(draw))
        if draw.random() < 0.05:
            draw.shuffle(arguments)
        # The system allows no zero bytes in arguments, and a package that is named on the command line is imported.
        return [argument.replace("\x00", "").replace(change.CANARY_PACKAGE, "no_package") for argument in arguments]


def _encoding(errors: str) -> Any:
    """Return a stream that handles encoding errors as a terminal does."""
    return io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors=errors)


def _option(draw: random.Random, option: click.Option) -> list[str]:
    name = draw.choice([*option.opts, *option.secondary_opts])
    if draw.random() < 0.03:
        name = name[:-1] + draw.choice(("", "x", "-"))
    if option.is_flag and draw.random() < 0.95:
        return [name]
    return [f"{name}={_value(draw)}"] if draw.random() < 0.3 else [name, _value(draw)]


def _value(draw: random.Random) -> str:
    kind = draw.randrange(10)
    if kind < 6:
        return draw.choice(_VALUES)
    if kind < 9:
        return str(change.odd_value(draw))[:100_000]
    return change.letters(draw, draw.choice(_VALUES).encode()).decode("utf-8", "surrogateescape")


@contextlib.contextmanager
def _stubs() -> Iterator[None]:
    """Replace training and playing, which would take hours; a video has two frames."""
    owners: Sequence[tuple[Any, str, Any]] = (
        (train, "train", lambda *_, **__: Path("new")),
        (train, "resume", lambda path, **_: path),
        (rescore, "play_cells", lambda *_: (rows for rows in ())),
        (render, "play_cells", lambda player, cells, *_: (_clip_grid(cell) for cell in cells[:2])),
    )
    before = [getattr(owner, name) for owner, name, _ in owners]
    for owner, name, stub in owners:
        setattr(owner, name, stub)
    try:
        yield
    finally:
        for (owner, name, _), original in zip(owners, before, strict=True):
            setattr(owner, name, original)


def _clip_grid(cell: Any) -> RecordedCell:
    picture = np.zeros((20, 30, 3), np.uint8)
    picture[5:9, 3:20] = 200
    return RecordedCell(cell, Clip.of([picture, picture[::-1]], over=True), 1.5, 1.5, 1, True)
