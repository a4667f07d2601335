"""Checks of the types of arguments: one message each, with the argument, its value and what is expected."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from blip_rl.errors import UserError, did_you_mean

_LONGEST_VALUE = 80


def shown(value: object) -> str:
    """Return a value for a message: its start, on one line."""
    text = " ".join(repr(value).split())
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 1]}…"


def path(name: str, value: object) -> Path:
    """Return a path, given as text, as a path or as a :class:`~blip_rl.api.run.Run`."""
    if isinstance(value, str | os.PathLike) and isinstance(os.fspath(value), str):
        return Path(value)
    hint = " (give several runs to report as a list)" if isinstance(value, list | tuple) else ""
    raise UserError(f"{name} = {shown(value)}: expected a path{hint}")


def optional_path(name: str, value: object) -> Path | None:
    """Return :func:`path`, or None."""
    return None if value is None else path(name, value)


def names(name: str, value: object, example: str) -> list[str]:
    """Return a list of names; text is refused, since it would be read letter by letter."""
    given = list(value) if isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping) else None
    if not given or not all(isinstance(item, str | os.PathLike) for item in given):
        raise UserError(f"{name} = {shown(value)}: expected a list of names, such as {example}")
    texts = [str(item) for item in given]
    if joined := next((text for text in texts if "," in text), None):
        raise UserError(f"{name} has the item {shown(joined)}: expected one name for each item, such as {example}")
    return texts


def stage_numbers(value: object) -> list[int] | None:
    """Return a list of stages, or None for all."""
    if value is None:
        return None
    if not isinstance(value, Sequence) or isinstance(value, str) or not value or not all(map(_is_stage, value)):
        raise UserError(f"stages = {shown(value)}: expected a list of numbers counted from 1, such as [1, 2]")
    return list(value)


def whole(name: str, value: Any, least: int, most: int) -> int:
    """Return a whole number within bounds."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise UserError(f"{name} = {shown(value)}: expected a whole number from {least:,} to {most:,}")
    return value


def optional_whole(name: str, value: object, least: int, most: int) -> int | None:
    """Return :func:`whole`, or None."""
    return None if value is None else whole(name, value, least, most)


def number(name: str, value: Any) -> float:
    """Return a number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(f"{name} = {shown(value)}: expected a number")
    return float(value)


def flag(name: str, value: object) -> bool:
    """Return True or False."""
    if not isinstance(value, bool):
        raise UserError(f"{name} = {shown(value)}: expected True or False")
    return value


def choice(name: str, value: Any, allowed: Sequence[str | None]) -> Any:
    """Return one of the allowed values."""
    if value not in allowed:
        words = [word for word in allowed if word is not None]
        hint = did_you_mean(value, words) if isinstance(value, str) else ""
        rule = hint or f": expected one of {', '.join(map(repr, allowed))}"
        raise UserError(f"{name} = {shown(value)}{rule}")
    return value


def _is_stage(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
