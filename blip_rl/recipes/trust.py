"""Trust in the packages and wrappers that recipes and run folders name: importing one runs its code.

A recipe may come from an untrusted source. The packages it names are imported only if the user

- names the package in ``BLIP_RL_TRUSTED_PACKAGES``, which also covers the package's modules and wrappers, or
- has given ``--trust`` for a file that names the same package, or the same wrapper with the same arguments.

``--trust`` is remembered in ``$XDG_STATE_HOME/blip-rl/trusted`` (``~/.local/state/blip-rl/trusted``), a line each, as
direnv does: a run folder cannot carry its own permission. The lines name what is imported rather than files, so that
trust in a sequence recipe also holds for its runs, and ends when its author names something else.
"""

from __future__ import annotations

import json
import os
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from blip_rl.errors import UserError
from blip_rl.recipe_errors import show
from blip_rl.task_schedule import TaskConfig
from blip_rl.untrusted.files import read_text
from blip_rl.wrapper_config import GYMNASIUM_WRAPPERS, WrapperConfig

TRUSTED = "BLIP_RL_TRUSTED_PACKAGES"
"""Environment variable: names of packages, separated by commas."""

_MODULE = re.compile(r"\w+(\.\w+)*")

_now_trusted: ContextVar[set[str] | None] = ContextVar("now_trusted", default=None)
_trusted_here: set[str] = set()  # in this process, also if the file cannot be written


@contextmanager
def trusting(given: bool = True, *, remember: bool = True) -> Iterator[list[str]]:
    """Trust everything that recipes read in this block name, from now on if the block succeeds.

    Args:
        given: Whether to; False changes nothing.
        remember: Whether later processes of this user trust the same, too.

    Yields:
        A list, to which the end of the block adds what was not trusted before.
    """
    new: list[str] = []
    if not given:
        yield new
        return
    found: set[str] = set()
    token = _now_trusted.set(found)
    try:
        yield new
    finally:
        _now_trusted.reset(token)
    new += sorted(found - _trusted_here - _remembered())
    _trusted_here.update(found)
    if remember and new:
        _remember(new)


def import_problems(task: TaskConfig) -> list[str]:
    """Return what a task of a file would import without the user's trust: one line each, with its key and value."""
    problems = []
    package, colon, _ = task.game.rpartition(":")
    # A game's package that is already imported is allowed: importing it again runs no code.
    if colon and not _is_trusted(package, f"package {package}") and package not in sys.modules:
        problems.append(f"game = {show(task.game)}: {_refusal(package)}")
    for index, wrapper in enumerate(task.wrappers):
        # An imported module is no exception: a wrapper is also called, with arguments that the file chose.
        if wrapper.module != GYMNASIUM_WRAPPERS and not _is_trusted(wrapper.module, _line(wrapper)):
            problems.append(f"wrappers[{index}] = {show(wrapper.wrapper)}: {_refusal(wrapper.module)}")
    return problems


def trust_named(game: str) -> None:
    """Within :func:`trusting`, also trust the package of a game that the user named; its run will refer to it."""
    package, colon, _ = game.rpartition(":")
    if colon:
        _is_trusted(package, f"package {package}")


def _line(wrapper: WrapperConfig) -> str:
    return f"wrapper {json.dumps(wrapper.model_dump(mode='json'), sort_keys=True)}"


def _is_trusted(module: str, line: str) -> bool:
    if not _MODULE.fullmatch(module):
        return False
    now = _now_trusted.get()
    if now is not None:
        now.add(line)
        return True
    named = {name.strip() for name in os.environ.get(TRUSTED, "").split(",")}
    parts = module.split(".")
    packages = {".".join(parts[:end]) for end in range(1, len(parts) + 1)}
    return bool(packages & named) or line in _trusted_here or line in _remembered()


def _refusal(module: str) -> str:
    shown = module[:80] if module.isprintable() else "NAME"
    return (
        f"package {module[:80]!r} is not trusted, and importing it would run its code: expected a ROM, a registered id "
        "or a wrapper of gymnasium.wrappers (if you trust the package, add --trust, which is remembered, or set "
        f"{TRUSTED}={shown})"
    )


def trust_file() -> Path | None:
    """Return the file that remembers what this user trusts; None without a home folder."""
    given = os.environ.get("XDG_STATE_HOME", "")
    try:
        state = Path(given) if Path(given).is_absolute() else Path.home() / ".local" / "state"
    except RuntimeError:
        return None
    return state / "blip-rl" / "trusted"


def _remembered() -> set[str]:
    path = trust_file()
    try:
        return set(read_text(path).splitlines()) if path is not None else set()
    except UserError:  # not written yet, or unreadable
        return set()


def _remember(lines: list[str]) -> None:
    """Append lines. One short write in append mode, so that commands at the same time lose none of each other's."""
    path = trust_file()
    try:
        if path is None:
            raise OSError("there is no home folder")
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write("".join(f"{line}\n" for line in lines))
    except OSError as error:
        warnings.warn(
            f"--trust is not remembered: {error.strerror or error} (give it again with the next command, or set "
            f"{TRUSTED})",
            stacklevel=3,
        )
