"""Copies of shipped recipes, in which the settings that are not set stand as comments."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

from blip_rl.errors import UserError, did_you_mean
from blip_rl.recipes.explain import REPLACES, ExplainedSetting, explain
from blip_rl.recipes.files import find_recipe, read_recipe, recipe_names
from blip_rl.recipes.overrides import value_at
from blip_rl.recipes.settings import toml

_WIDTH = 100
_HEADING = "# Not set here, with the values that apply. To change one, remove its # and edit it."


def recipe_copy(name: str) -> tuple[str, str]:
    """Return the text of a copy of a shipped recipe, and the option of ``train`` that takes it.

    The text keeps the recipe's own settings and comments, also its base. Every other setting follows as a comment in
    its section, with its current value, meaning and allowed values.

    Raises:
        UserError: no shipped recipe has this name.
    """
    agents, sequences = recipe_names("agents"), recipe_names("envs")
    if name not in {*agents, *sequences}:
        known = [*agents, *sequences]
        hint = did_you_mean(name[:80], known) or f": expected one of {', '.join(known)}"
        raise UserError(f"unknown agent or sequence {name[:80]!r}{hint} (blip-rl list)")
    path = find_recipe("agents" if name in agents else "envs", name)
    values, blocks = read_recipe(path), _blocks(path)
    blocks[""][0] = f"description = {toml(f'Copy of {name}: ' + values['description'])}"
    left_out = {"tasks[]", "compute"} | (set() if values.get("learning") == "distil" else {"distil"})
    for setting in explain(name).settings:
        section, _, key = setting.info.key.rpartition(".")
        is_set = value_at(values, setting.info.key.split(".")) is not None
        if is_set or section in left_out or setting.source.endswith(REPLACES):
            continue
        lines = blocks.setdefault(section, [f"[{section}]"])
        if _HEADING not in lines:
            lines += ["", _HEADING] if section in values or not section else [_HEADING]
        lines += _comment(key, setting)
    text = "\n\n".join("\n".join(lines).strip() for lines in blocks.values()) + "\n"
    return text, "--agent" if name in agents else "--games"


def _blocks(path: Path) -> dict[str, list[str]]:
    """Return the lines of a recipe by section; those before the first section have an empty name."""
    blocks: dict[str, list[str]] = {"": []}
    for line in path.read_text(encoding="utf-8").splitlines():
        if header := re.match(r"\[+([\w.]+)\]+", line):
            name = header[1] if line[1] != "[" else f"{header[1]} {len(blocks)}"
            blocks[name] = []
        blocks[next(reversed(blocks))].append(line)
    return {name: "\n".join(lines).rstrip().splitlines() for name, lines in blocks.items()}


def _comment(key: str, setting: ExplainedSetting) -> list[str]:
    """Return a setting as comments: its meaning, and a line that sets it once the # is removed."""
    meaning = textwrap.wrap(f"{setting.info.meaning} Allowed: {setting.info.allowed}.", _WIDTH)
    line = f"{key} is not set" if setting.value == "none" else f"{key} = {setting.value}"
    return [f"# {text}" for text in (*meaning, line)]
