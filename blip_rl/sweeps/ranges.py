"""Ranges of settings among which ``--search`` looks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, model_validator

from blip_rl.setting_types import Settings


class Range(Settings):
    """Values among which ``--search`` looks: a range of numbers, or a list of choices."""

    low: float | int | None = None
    """Lowest value; whole numbers if ``low`` and ``high`` are whole."""
    high: float | int | None = None
    """Highest value."""
    log: bool = False
    """Whether to search evenly over the logarithm."""
    choices: tuple[bool | int | float | str, ...] = ()
    """Instead of a range."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.choices:
            if (self.low, self.high, self.log) != (None, None, False):
                raise ValueError("choices with low, high or log: expected one or the other")
        elif self.low is None or self.high is None or not self.low < self.high or (self.log and self.low <= 0):
            raise ValueError(
                f"low = {self.low}, high = {self.high}: expected low below high, and above 0 where log = true; "
                "or choices = [...]"
            )
        return self


def _ranges(value: object) -> object:
    return dict(flatten_ranges(value)) if isinstance(value, dict) else value


def flatten_ranges(table: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the ranges in a table by key, with the keys of nested tables joined by dots."""
    for key, inner in table.items():
        nested = isinstance(inner, dict) and inner and all(isinstance(one, dict) for one in inner.values())
        yield from flatten_ranges(inner, f"{prefix}{key}.") if nested else [(f"{prefix}{key}", inner)]


Ranges = Annotated[dict[str, Range], BeforeValidator(_ranges)]
