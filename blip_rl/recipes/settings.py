"""Every setting of the recipes: its key, meaning, default and allowed values, from the models and their docstrings."""

from __future__ import annotations

import json
import re
import types
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from blip_rl.agent_config import AgentConfig
from blip_rl.config import NormalizationConfig, Sections
from blip_rl.setting_types import Matching, Settings
from blip_rl.task_schedule import Schedule, TaskConfig
from blip_rl.wrapper_config import WrapperConfig

SEQUENCE_SECTIONS: dict[str, type[Settings]] = {
    name: cast(type[Settings], info.annotation)
    for name, info in Sections.model_fields.items()
    if name not in NormalizationConfig.model_fields
}
"""Sections that ``--set`` can change beside the agent's; ``compute`` is not in sequence recipes."""
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")  # TOML: other keys are quoted


@dataclass(frozen=True)
class SettingInfo:
    """A setting of a recipe.

    Attributes:
        key: Dotted key as for ``--set``; those of a task begin with ``tasks[]``.
        meaning: One or more sentences.
        default: In TOML; None if the setting is required.
        allowed: Allowed values in words.
    """

    key: str
    meaning: str
    default: str | None
    allowed: str


def settings_of(model: type[BaseModel], prefix: str = "") -> Iterator[SettingInfo]:
    """Yield the settings of a section and the sections in it; tasks and the method have models of their own."""
    for name, field in model.model_fields.items():
        inner = _without_none(field.annotation)
        if isinstance(inner, type) and issubclass(inner, Settings):
            yield from settings_of(inner, f"{prefix}{name}.")
        elif Any not in get_args(inner) and TaskConfig not in get_args(inner):  # the agent's section has any settings
            default = None if field.is_required() else toml(field.get_default(call_default_factory=True))
            yield SettingInfo(f"{prefix}{name}", _plain(field.description), default, _allowed(inner, field.metadata))


def _without_none(annotation: Any) -> Any:
    """Return the section of an optional section; other annotations unchanged."""
    section = next((a for a in get_args(annotation) if isinstance(a, type) and issubclass(a, Settings)), None)
    return section if type(None) in get_args(annotation) and section is not None else annotation


def agent_settings() -> list[SettingInfo]:
    """Return the settings of an agent recipe without those of its method."""
    return list(settings_of(AgentConfig))


def sequence_settings() -> list[SettingInfo]:
    """Return the settings of a sequence recipe and of ``compute``, without its schedule and its tasks."""
    sections = (info for name, model in SEQUENCE_SECTIONS.items() for info in settings_of(model, f"{name}."))
    return [*settings_of(NormalizationConfig), *sections]


def task_settings() -> list[SettingInfo]:
    """Return the settings of a sequence's schedule and of its tasks."""
    return [*settings_of(Schedule), *settings_of(TaskConfig, "tasks[].")]


def method_settings(method: str) -> list[SettingInfo]:
    """Return the settings of a method, its name first.

    Raises:
        UserError: no method has this name.
    """
    from blip_rl.methods import load_method, method_names

    name = SettingInfo("method.name", "Method that protects earlier tasks.", None, ", ".join(method_names()))
    return [name, *settings_of(load_method(method).Settings, "method.")]


def toml(value: object) -> str:
    """Return a value of a recipe in TOML, or ``none``, which ``--set`` accepts to unset a key."""
    if value is None:
        return "none"
    if isinstance(value, dict):
        pairs = [
            f"{key if _BARE_KEY.fullmatch(str(key)) else toml(key)} = {toml(inner)}" for key, inner in value.items()
        ]
        return f"{{ {', '.join(pairs)} }}" if pairs else "{}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml, value))}]"
    return json.dumps(value, ensure_ascii=False)


def _plain(docstring: str | None) -> str:
    """Return a docstring in one line, without roles of reStructuredText."""
    return re.sub(r"(?::\w+:)?`+~?([^`]*)`+", r"`\1`", " ".join((docstring or "").split()))


def _allowed(annotation: Any, metadata: Iterable[Any]) -> str:
    """Return the values that a type allows, in words."""
    found = [part for item in metadata for part in (item.metadata if isinstance(item, FieldInfo) else [item])]
    if rules := [item.func.rule for item in found if isinstance(getattr(item, "func", None), Matching)]:
        return str(rules[0])
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _allowed(inner[0], [*annotation.__metadata__, *found])
    if origin is Literal:
        return ", ".join(map(toml, inner))
    if origin in {Union, types.UnionType}:
        return " or ".join("none" if option is types.NoneType else _allowed(option, ()) for option in inner)
    if origin is dict:
        return f"table, each {_allowed(inner[1], ())}"
    if origin is tuple:
        return (
            f"list, each {_allowed(inner[0], ())}"
            if inner[-1] is ...
            else f"[{', '.join(_allowed(i, ()) for i in inner)}]"
        )
    if annotation in {int, float}:
        return f"{'whole number' if annotation is int else 'number'} {_range(annotation, found)}".strip()
    return {bool: "true, false", str: "text", WrapperConfig: "package.module:Class, or a table with its arguments"}[
        annotation
    ]


def _range(kind: type, metadata: Iterable[Any]) -> str:
    bounds = {
        name: getattr(item, name) for item in metadata for name in ("ge", "gt", "le", "lt") if hasattr(item, name)
    }
    if kind is int and "lt" in bounds:
        bounds["le"] = bounds.pop("lt") - 1
    for strict, loose in (("gt", "ge"), ("lt", "le")):  # a type of ours with a narrower range has both
        if strict in bounds:
            bounds.pop(loose, None)
    shown = {name: f"{bound:,}" if kind is int else f"{bound:g}" for name, bound in bounds.items()}
    if {"ge", "le"} <= set(shown):
        return f"from {shown['ge']} to {shown['le']}"
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    return " and ".join(f"{sign} {shown[name]}" for name, sign in signs.items() if name in shown)
