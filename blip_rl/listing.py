"""Tables of ``blip-rl list``: games, agents, sequences and methods. Imports no heavy library."""

from __future__ import annotations

from pathlib import Path

import click

TAGS = ("atari", "minatar", "laptop", "cycles", "modes", "task-blind")
"""Tags of sequences, see :mod:`blip_rl.recipes.summary`."""


def print_names(kind: str | None, every: bool, tag: str | None = None) -> None:
    """Print one table or all of them.

    Args:
        kind: ``games``, ``agents``, ``sequences`` or ``methods``; None for all.
        every: Include every ALE ROM in the table of games.
        tag: Only list sequences with this tag.
    """
    tables = {
        "games": lambda: _games_table(every),
        "agents": _agents_table,
        "sequences": lambda: _sequences_table(tag),
        "methods": _methods_table,
    }
    if kind is not None:
        _print_table(tables[kind]())
    else:
        for number, (name, table) in enumerate(tables.items()):
            click.echo(f"{'' if number == 0 else chr(10)}{name}:")
            _print_table(table(), indent="  ")
    if kind in {None, "games"} and not every:
        _note_on_games()
    if kind in {None, "sequences"}:
        _note_on_times()


def _games_table(every: bool) -> list[tuple[str, ...]]:
    from blip_rl.recipes.files import list_games

    rows: list[tuple[str, ...]] = [(g.name, g.title, g.game, ", ".join(g.sequences)) for g in list_games()]
    if every:
        from blip_rl.tasks.games import atari_roms

        rows += [(rom, rom.replace("_", " "), rom, "") for rom in atari_roms() if rom not in {row[0] for row in rows}]
    return rows


def _note_on_games() -> None:
    """Print on stderr, so that pipes are unaffected, the other values that ``--games`` accepts."""
    from blip_rl.tasks.games import atari_roms

    click.echo(
        f"\n--games also accepts {len(atari_roms())} ALE ROM names such as pong (see blip-rl list games --all), "
        "Gymnasium ids such as CartPole-v1, and paths of .toml files.",
        err=True,
    )


def _note_on_times() -> None:
    click.echo(
        "\nTimes are those of training BLIP on two CPU cores of another machine, without evaluations "
        "(docs/benchmarks.md); blip-rl train --dry-run estimates a run on this one.",
        err=True,
    )


def _agents_table() -> list[tuple[str, ...]]:
    from blip_rl.recipes.files import list_agents

    return [(recipe.name, recipe.description) for recipe in list_agents()]


def _sequences_table(tag: str | None) -> list[tuple[str, ...]]:
    """Return name, number of stages, steps of all stages, expected training time, tags and description."""
    from blip_rl.formatting import duration
    from blip_rl.recipes.summary import sequence_infos
    from blip_rl.step_counts import short_steps

    return [
        (
            info.name,
            f"{info.stages} stages",
            f"{short_steps(info.steps)} steps",
            duration(info.hours * 3600),
            ", ".join(info.tags),
            info.description,
        )
        for info in sequence_infos()
        if tag is None or tag in info.tags
    ]


def _methods_table() -> list[tuple[str, ...]]:
    """Read the methods' docstrings without importing them: importing torch takes seconds."""
    import ast

    import blip_rl.methods

    folder = Path(blip_rl.methods.__file__).parent
    sources = {name: (folder / f"{name}.py").read_text(encoding="utf-8") for name in blip_rl.methods.method_names()}
    return [(name, (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]) for name, text in sources.items()]


def _print_table(rows: list[tuple[str, ...]], indent: str = "") -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        click.echo((indent + "  ".join(cells)).rstrip())
