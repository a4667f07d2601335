"""Write docs/settings.md, the reference of all settings, from the recipe models.

    python scripts/write_settings.py

tests/recipes/test_settings.py fails if the file is not up to date.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from pathlib import Path

from blip_rl.methods import method_names
from blip_rl.recipes.settings import SettingInfo, agent_settings, method_settings, sequence_settings, task_settings

PAGE = Path(__file__).parent.parent / "docs" / "settings.md"
_HEAD = """# Settings

Written by `python scripts/write_settings.py` from the models of the recipes. `blip-rl show blip` prints the settings of
an agent with their values and sources, `blip-rl copy blip my.toml` makes a recipe of your own, and `--set KEY=VALUE`
changes one setting of a run. Required keys have no default; shipped agents take them from `agents/base/ppo.toml`.
"""


def page() -> str:
    """Return the text of docs/settings.md."""
    # Stable: keys without a section first, as they stand in a recipe.
    sequence = sorted([*task_settings(), *sequence_settings()], key=lambda info: "." in info.key)
    parts = [
        _HEAD,
        "## Agent recipes (`agents/*.toml`)\n",
        *(_section(name, found) for name, found in _by_section(agent_settings())),
    ]
    for method in method_names():
        _, *own = method_settings(method)
        table = _table(own) if own else "No settings.\n"
        parts.append(f'### `[method]` with `name = "{method}"`\n\n{table}')
    parts.append("## Sequence recipes (`envs/*.toml`)\n")
    parts.append("`[agent.…]` sections override settings of the agent's recipe; `--set` overrides both.\n")
    parts += [_section(name, found) for name, found in _by_section(sequence)]
    return "\n".join(parts)


def _by_section(settings: Iterable[SettingInfo]) -> list[tuple[str, list[SettingInfo]]]:
    grouped = groupby(settings, lambda info: info.key.rpartition(".")[0])
    return [(name, list(found)) for name, found in grouped]


def _section(name: str, settings: list[SettingInfo]) -> str:
    title = f"[[{name[:-2]}]]" if name.endswith("[]") else f"[{name}]"
    heading = f"### `{title}`" if name else "### Without a section"
    note = "\nOnly with `--set`; not in recipes.\n" if name == "compute" else ""
    return f"{heading}\n{note}\n{_table(settings)}"


def _table(settings: list[SettingInfo]) -> str:
    rows = ["| key | default | allowed | meaning |", "|---|---|---|---|"]
    for info in settings:
        default = "required" if info.default is None else f"`{info.default}`"
        cells = [f"`{info.key.rpartition('.')[2]}`", default, info.allowed, info.meaning]
        rows.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
