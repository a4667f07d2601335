"""Gymnasium ids of MinAtar's games, as the package registers them; importing this module imports no library."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterable
from dataclasses import dataclass

from blip_rl.errors import UserError, did_you_mean
from blip_rl.extras import install_command

MODULES = ("asterix", "breakout", "freeway", "seaquest", "space_invaders")
"""Modules of ``minatar.environments``, one for each game."""
_PREFIX = re.compile(r"(?:minatar(?:\.gym)?:)?minatar/", re.IGNORECASE)


@dataclass(frozen=True)
class MinatarGame:
    """A game and its action set.

    Attributes:
        module: Module of ``minatar.environments``.
        minimal_actions: Whether only actions that the game distinguishes are allowed (``-v1``) or all six (``-v0``).
    """

    module: str
    minimal_actions: bool

    @property
    def id(self) -> str:
        """The Gymnasium id, for example ``MinAtar/SpaceInvaders-v0``."""
        return f"MinAtar/{self.module.title().replace('_', '')}-v{int(self.minimal_actions)}"


_GAMES = {
    game.id.casefold(): game
    for game in (MinatarGame(module, minimal) for module in MODULES for minimal in (False, True))
}


def minatar_ids() -> list[str]:
    """Return all ids, those with six actions first in each game."""
    return [game.id for game in _GAMES.values()]


def minatar_game(name: str) -> MinatarGame | None:
    """Return the game of a Gymnasium id, whatever its case; None if the name is not such an id.

    Raises:
        UserError: the name is in the namespace of MinAtar, but no game has it; or the package is not installed.
    """
    prefix = _PREFIX.match(name.strip())
    if prefix is None:
        return None
    rest = name.strip()[prefix.end() :]
    game = _GAMES.get(f"minatar/{rest}".casefold())
    if game is None:
        hint = did_you_mean(f"MinAtar/{rest}"[:80], minatar_ids()) or f": expected one of {', '.join(minatar_ids())}"
        raise UserError(f"unknown game {name[:80]!r}{hint} (-v0: all six actions, -v1: only those that the game uses)")
    check_installed(f"game {game.id!r} needs", [name])
    return game


def check_installed(who_needs: str, games: Iterable[str]) -> None:
    """Check that MinAtar is installed if one of the games is MinAtar's.

    Args:
        who_needs: Beginning of the message, for example ``game 'MinAtar/Breakout-v0' needs``.
        games: Names of games.

    Raises:
        UserError: it is not.
    """
    if any(_PREFIX.match(name.strip()) for name in games) and importlib.util.find_spec("minatar") is None:
        raise UserError(f"{who_needs} the package MinAtar, which is not installed: {install_command('minatar')}")
