"""Format validation errors of settings: one line each, with the key, the value and the rule."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError

from blip_rl.errors import UserError, did_you_mean

Location = tuple[str | int, ...]
Model = TypeVar("Model", bound=BaseModel)
Result = TypeVar("Result")

_LONGEST_VALUE = 60
_MOST_LINES = 20


class RecipeError(UserError):
    """All errors of a recipe and its overrides, one line each."""

    def __init__(self, problems: list[str]) -> None:
        """Join the lines; only the first twenty are shown, the rest is counted."""
        self.problems = problems
        lines = problems[:_MOST_LINES]
        if len(problems) > len(lines):
            lines.append(f"… and {len(problems) - len(lines)} more")
        super().__init__(lines[0] if len(lines) == 1 else "\n  ".join([f"{len(problems)} problems:", *lines]))


@dataclass(frozen=True)
class Problem:
    """One validation error, without the file or option that caused it."""

    location: Location
    text: str
    has_value: bool = False
    value: Any = None

    @property
    def is_about_keys(self) -> bool:
        """Whether the rule concerns several keys of a section, which the text names as ``key = value``."""
        return not self.has_value and not self.text.startswith("missing")

    def under(self, *prefix: str) -> Problem:
        """Return the same problem with a prefix before its location."""
        return Problem((*prefix, *self.location), self.text, self.has_value, self.value)

    def line(self, prefix: str = "") -> str:
        """Return ``ppo.epochs = 0: input should be greater than or equal to 1``."""
        key = prefix + dotted(self.location)
        return f"{key} = {show(self.value)}: {self.text}" if self.has_value else f"{key}: {self.text}"


def dotted(location: Location) -> str:
    """Return a location as a dotted key: ``trunk.image.conv[0][1]``."""
    path = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in location)
    return path.removeprefix(".") or "the recipe"


def show(value: object) -> str:
    """Return a value in approximate TOML syntax: one short line without control characters."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "a table"
    try:
        text = repr(value)
    except ValueError:  # an integer of more digits than Python prints
        return "a number of thousands of digits"
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 1]}…"


def checked(model: type[Model], values: object) -> tuple[Model | None, list[Problem]]:
    """Validate; return the model and no problems, or None and the problems."""
    try:
        return model.model_validate(values), []
    except ValidationError as error:
        return None, problems_of(error, model)


def validated(model: type[Model], values: object, source: str) -> Model:
    """Validate one file's values, or raise a :class:`RecipeError` whose lines all name that file."""
    result, problems = checked(model, values)
    if result is None:
        raise RecipeError([f"{source}: {problem.line()}" for problem in problems])
    return result


def attempt(lines: list[str], step: Callable[..., Result], *arguments: Any) -> Result | None:
    """Run one step; on an error append its lines and return None, so that later errors are found too."""
    try:
        return step(*arguments)
    except RecipeError as error:
        lines += error.problems
    except UserError as error:
        lines.append(str(error))
    return None


def problems_of(error: ValidationError, model: type[BaseModel]) -> list[Problem]:
    """Convert a pydantic error to problems: pydantic's own messages, with suggestions for misspelt names."""
    details = [dict(detail) for detail in error.errors(include_url=False)]
    return [_problem(detail, model) for detail in details if not _is_echo(detail)]


def _is_echo(detail: dict[str, Any]) -> bool:
    """Return whether a "too short" error is spurious: pydantic does not count invalid members."""
    return detail["type"] == "too_short" and bool(len(detail["input"]) >= detail["ctx"]["min_length"])


def _problem(detail: dict[str, Any], model: type[BaseModel]) -> Problem:
    kind, location, value = detail["type"], detail["loc"], detail["input"]
    if kind == "missing":
        return Problem(location, "missing: this setting has no default")
    if kind == "extra_forbidden":
        allowed = _keys_at(model, location[:-1])
        hint = did_you_mean(str(location[-1]), allowed)
        return Problem(location, f"unknown key{hint} (allowed: {', '.join(allowed) or 'none'})", True, value)
    if kind == "value_error":
        text = str(detail["ctx"]["error"]).removeprefix(f"{value!r}: ")
        # The text of a rule about several keys already has the keys and their values.
        return Problem(location, text, has_value=not isinstance(value, dict | list | tuple), value=value)
    text = detail["msg"][0].lower() + detail["msg"][1:]
    if kind in {"model_type", "dict_type"}:  # pydantic names the Python class, which a recipe's author does not know
        text = "input should be a table"
    if kind == "literal_error" and isinstance(value, str):
        text += did_you_mean(value[:80], re.findall(r"'([^']*)'", detail["ctx"]["expected"]))
    return Problem(location, text, True, value)


def _keys_at(model: Any, location: Location) -> list[str]:
    """Return the names of the settings of the section at a location."""
    for step in location:
        if isinstance(step, int):
            model = get_args(model)[0]
        else:  # a table with any keys, or a section
            model = get_args(model)[1] if get_origin(model) is dict else model.model_fields[step].annotation
        if get_origin(model) is UnionType:  # a section that may be left out
            model = get_args(model)[0]
    return list(model.model_fields)
