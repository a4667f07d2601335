"""Types of option values: a wrong value is one message with the option, the value and what is expected."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

import click

from blip_rl.errors import UserError, did_you_mean

if TYPE_CHECKING:
    _Choice = click.Choice[str]
else:
    _Choice = click.Choice  # before click 8.2 the class has no type parameter

_LONGEST_VALUE = 80  # characters of a wrong value in a message
_NUMBER = re.compile(r"[-+]?[0-9.]+(?:[eE][-+]?[0-9]+)?|nan|[-+]?inf")


class WholeNumber(click.IntRange):
    """A whole number within bounds."""

    def __init__(self, least: int, most: int | None = None) -> None:
        """Create the type; ``most`` is None if there is no upper bound."""
        super().__init__(min=least, max=most)
        self._rule = f"of at least {least:,}" if most is None else f"from {least:,} to {most:,}"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the number.

        Raises:
            UserError: The text is not a whole number, or it is out of bounds.
        """
        try:
            return int(super().convert(value, param, ctx))
        except click.BadParameter as error:
            raise UserError(f"{shown(value, param)}: expected a whole number {self._rule}") from error


class Number(click.FloatRange):
    """A number above a bound and at most another one."""

    def __init__(self, above: float, most: float) -> None:
        """Create the type."""
        super().__init__(min=above, max=most, min_open=True)
        self._rule = f"of more than {above:g} and at most {most:g}"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number.

        Raises:
            UserError: The text is not a number, or it is out of bounds.
        """
        try:
            number = float(super().convert(value, param, ctx))
        except click.BadParameter:
            number = math.nan
        if math.isnan(number):  # nan is within any bounds
            raise UserError(f"{shown(value, param)}: expected a number {self._rule}")
        return number


class Choice(_Choice):
    """One of several words."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the word.

        Raises:
            UserError: The text is none of them.
        """
        try:
            return str(super().convert(value, param, ctx))
        except click.BadParameter as error:
            words = [str(word) for word in self.choices]
            hint = did_you_mean(str(value)[:_LONGEST_VALUE], words)
            rule = f"one of {', '.join(words)}"
            raise UserError(f"{shown(value, param)}{f'{hint} ({rule})' if hint else f': expected {rule}'}") from error


def label(param: click.Parameter | None) -> str:
    """Return a parameter as it is written on the command line: ``--seed``; an argument as in the help: ``RUN``."""
    if isinstance(param, click.Option):
        return max(param.opts, key=len)
    return "the value" if param is None else param.human_readable_name


def shown(value: object, param: click.Parameter | None) -> str:
    """Return a parameter and its value for a message, on one short line: ``--seed -1`` or ``--seed 'x'``."""
    text = str(value) if _NUMBER.fullmatch(str(value)) else repr(str(value))
    return f"{label(param)} {text if len(text) <= _LONGEST_VALUE else f'{text[: _LONGEST_VALUE - 1]}…'}"
