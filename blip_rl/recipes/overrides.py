"""Layers of settings and their sources: base ← recipe file ← the sequence's ``[agent]`` ← each ``--set``."""

from __future__ import annotations

import copy
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from blip_rl.config import NormalizationConfig, Sections
from blip_rl.errors import UserError, did_you_mean
from blip_rl.recipe_errors import Location, Problem, dotted, show

_Kind = Literal["agent", "sequence"]
_KEYS_WITHOUT_SECTION: dict[str, _Kind] = {
    "learning": "agent",
    **dict.fromkeys(NormalizationConfig.model_fields, "sequence"),
}
_SECTIONS: dict[str, _Kind] = {
    **dict.fromkeys(("ppo", "trunk", "method", "distil"), "agent"),
    **{name: "sequence" for name in Sections.model_fields if name not in _KEYS_WITHOUT_SECTION},
}
_OWN_OPTIONS = {"steps": "--steps", "seed": "--seed", "device": "--device", "games": "--games", "agent": "--agent"}


class _Remove:
    """Value of ``--set KEY=none``: remove the key."""

    def __repr__(self) -> str:
        return "none"


REMOVE = _Remove()


@dataclass(frozen=True)
class Layer:
    """Settings and their source.

    Attributes:
        source: A file, or an option as typed.
        values: Nested tables.
        prefix: Prefix of the keys in the file: ``agent.`` in a sequence.
        option_key: Key that an option sets; messages do not repeat it because the source shows it with its value.
        is_base: Whether a recipe inherits these settings; missing keys are then reported for the recipe, not for them.
    """

    source: str
    values: dict[str, Any]
    prefix: str = ""
    option_key: Location | None = None
    is_base: bool = False

    def holds(self, location: Location) -> bool:
        """Return whether this layer sets the value at a location."""
        inside: Any = self.values
        for step in location:
            if isinstance(inside, _Remove):
                return True
            try:
                inside = inside[step]
            except (KeyError, IndexError, TypeError):
                return False
        return True

    def line(self, problem: Problem) -> str:
        """Return a problem of this layer's as one line of a message."""
        is_shown = self.option_key == problem.location
        return f"{self.source}: {problem.text if is_shown else problem.line(self.prefix)}"


@dataclass(frozen=True)
class Override:
    """A parsed ``--set``: the kind of recipe, the key and the value."""

    recipe: Literal["agent", "sequence"]
    key: tuple[str, ...]
    value: Any
    text: str

    def layer(self) -> Layer:
        """Return the override as a layer with one value."""
        values: Any = self.value
        for step in reversed(self.key):
            values = {step: values}
        return Layer(f"--set {self.text}", values, option_key=self.key)


def parse_override(text: str) -> Override:
    """Read ``ppo.learning_rate=1e-4``; the value is TOML, or plain text where it is not, or ``none`` to remove the key.

    Raises:
        UserError: not ``section.key=value``, or a section that no recipe has.
    """
    quoted = show(text)
    shown = quoted[1:].removesuffix(quoted[0])
    key_text, equals, value_text = text.partition("=")
    key = tuple(step.strip() for step in key_text.split("."))
    if not equals or not value_text.strip() or not all(re.fullmatch(r"[A-Za-z0-9_-]{1,80}", step) for step in key):
        raise UserError(f"--set {shown}: expected section.key=value, for example --set ppo.learning_rate=1e-4")
    if key[0] in _OWN_OPTIONS:
        raise UserError(f"--set {shown}: {key[0]!r} is not a recipe's setting: use {_OWN_OPTIONS[key[0]]}")
    if len(key) == 1 and key[0] in _KEYS_WITHOUT_SECTION:
        return Override(_KEYS_WITHOUT_SECTION[key[0]], key, _parse_value(value_text.strip()), shown)
    if key[0] not in _SECTIONS or len(key) < 2:
        hint = did_you_mean(dotted(key), _known_keys())
        rule = f"expected a key of {', '.join(_SECTIONS)}, for example ppo.learning_rate, "
        rule += f"or {', '.join(_KEYS_WITHOUT_SECTION)}"
        raise UserError(f"--set {shown}{hint} ({rule})" if hint else f"--set {shown}: {rule}")
    return Override(_SECTIONS[key[0]], key, _parse_value(value_text.strip()), shown)


def _parse_value(text: str) -> Any:
    if text.lower() == "none":
        return REMOVE
    try:
        parsed = tomllib.loads(f"value = {text}")
        str(parsed)  # raises for integers of thousands of digits, which no message could show
    except (ValueError, RecursionError):
        return text
    # A line break could add further keys; such a value is plain text.
    return parsed["value"] if set(parsed) == {"value"} else text


def _known_keys() -> list[str]:
    """Return every key that ``--set`` can change and that has a fixed name."""
    from blip_rl.recipes.settings import agent_settings, sequence_settings

    return [info.key for info in (*agent_settings(), *sequence_settings()) if info.key != "description"]


def method_name_first(overrides: list[Override]) -> list[Override]:
    """Move ``method.name`` to the front: a new method drops the old one's settings, not those given with it."""
    return sorted(overrides, key=lambda override: override.key != ("method", "name"))


def merge(layers: list[Layer]) -> tuple[dict[str, Any], list[str]]:
    """Merge layers: later ones replace values of earlier ones, tables are merged.

    Returns:
        The merged settings, and an error line for each key to remove that is not set.
    """
    result: dict[str, Any] = {}
    lines: list[str] = []
    for layer in layers:
        _drop_settings_of_another_method(result, layer.values)
        missing = _merge_into(result, layer.values, ())
        lines += [layer.line(Problem(location, _nothing_to_remove(result, location))) for location in missing]
    return result, lines


def value_at(values: dict[str, Any], location: Sequence[str]) -> Any:
    """Return a value in nested tables; None if it is not set."""
    inside: Any = values
    for step in location:
        inside = inside.get(step) if isinstance(inside, dict) else None
    return inside


def located_line(layers: list[Layer], problem: Problem) -> str:
    """Return the line of a problem, headed by the last layer that set the value, or else by the recipe's own."""
    locations = [problem.location]
    if problem.is_about_keys:
        locations = [(*problem.location, key) for key in re.findall(r"(\w+) = ", problem.text)]
    guilty = [layer for layer in layers if any(layer.holds(location) for location in locations)]
    own = next(layer for layer in layers if not layer.is_base)
    return (guilty[-1] if guilty else own).line(problem)


def _drop_settings_of_another_method(result: dict[str, Any], values: dict[str, Any]) -> None:
    old, new = result.get("method"), values.get("method")
    if isinstance(old, dict) and isinstance(new, dict) and "name" in new and new["name"] != old.get("name"):
        result["method"] = {}


def _merge_into(under: dict[str, Any], over: dict[str, Any], location: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Merge in place; return the locations to remove that are not set."""
    missing = []
    for key, value in over.items():
        if isinstance(value, _Remove):
            if under.pop(key, REMOVE) is REMOVE:
                missing.append((*location, key))
        elif isinstance(value, dict) and isinstance(under.setdefault(key, {}), dict):
            missing += _merge_into(under[key], value, (*location, key))
        else:
            under[key] = copy.deepcopy(value)
    return missing


def _nothing_to_remove(result: dict[str, Any], location: tuple[str, ...]) -> str:
    inside = value_at(result, location[:-1])
    allowed = [str(key) for key in inside] if isinstance(inside, dict) else []
    hint = did_you_mean(location[-1], allowed)
    return f"nothing to remove, the recipe does not set {dotted(location)}{hint}"
