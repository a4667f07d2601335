"""Resolution of game names in recipes.

A game is an ALE ROM (``kung_fu_master``), a Gymnasium id of one (``ALE/KungFuMaster-v5``), one of MinAtar's
(``MinAtar/Breakout-v0``), or any other Gymnasium id (``CartPole-v1``, ``package:Name-v0``). In names of ROMs, case,
spaces and punctuation do not matter (``Kung-Fu Master``), in ids case does not; an exact name takes precedence. Nothing
is downloaded: the ROMs are part of the ale-py package. Importing this module does not import ale_py or gymnasium, so
that the command line starts fast.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from blip_rl.errors import UserError, did_you_mean
from blip_rl.tasks.minatar_names import minatar_game, minatar_ids
from blip_rl.tasks.packages import id_with_package

if TYPE_CHECKING:
    from gymnasium.envs.registration import EnvSpec

_HINT = "(blip-rl list games)"
_ATARI_ENTRY_POINT = "ale_py.env:AtariEnv"

# ale-py ships these without a single-player mode, registers no Gymnasium id for them, and calls exit() when they are
# loaded alone (ale-py 0.12.1): a name that ends the process must not be accepted.
_TWO_PLAYER_ROMS = frozenset({"combat", "joust", "maze_craze", "warlords"})

_ALE_ID = re.compile(r"(?:ale_py:)?ale/(.+)-v5", re.IGNORECASE)


def plain_name(name: str) -> str:
    """Normalise a name for comparison: letters and digits, case-folded; of an ALE id, those of its game."""
    found = _ALE_ID.fullmatch(name.strip())
    return "".join(c for c in (found[1] if found else name).casefold() if c.isalnum())


@functools.cache
def atari_roms() -> tuple[str, ...]:
    """Return the sorted names of the single-player games that ship with ale-py."""
    spec = importlib.util.find_spec("ale_py")
    if spec is None or not spec.submodule_search_locations:
        raise UserError("ale-py is not installed: Atari games need it (pip install ale-py)")
    folder = Path(spec.submodule_search_locations[0], "roms")
    return tuple(sorted({rom.stem for rom in folder.glob("*.bin")} - _TWO_PLAYER_ROMS))


def rom_name(game: str) -> str | None:
    """Return the ROM that ``game`` plays, or ``None`` if it is no Atari game.

    Of a Gymnasium id such as ``ALE/Pong-v5`` only the game is used: frame skip, sticky actions and action set come
    from the recipe.
    """
    if game in atari_roms():
        return game
    spec = _registered(game)
    if spec is None:
        return _roms_by_plain_name().get(plain_name(game)) or _rom_of(_gymnasium_spec(game))
    return _rom_of(spec)


@functools.cache
def _roms_by_plain_name() -> dict[str, str]:
    return {plain_name(rom): rom for rom in atari_roms()}


def _rom_of(spec: EnvSpec | None) -> str | None:
    return str(spec.kwargs["game"]) if spec is not None and spec.entry_point == _ATARI_ENTRY_POINT else None


def is_atari(game: str) -> bool:
    """Return whether ``game`` is an ALE ROM name or a Gymnasium id of one."""
    return rom_name(game) is not None


def check_game(game: str, known_short_names: Iterable[str] = ()) -> str:
    """Resolve ``game`` to its ROM name, or else to its Gymnasium id.

    Args:
        game: The user's input, short names already expanded.
        known_short_names: Further candidates for suggestions.

    Raises:
        UserError: no ROM and no registered environment has this name, or it is MinAtar's and that is not installed.
    """
    if (minatar := minatar_game(game)) is not None:
        return minatar.id
    rom = rom_name(game)
    if rom is not None:
        return rom
    spec = _gymnasium_spec(game)
    if spec is not None:
        package, colon, _ = game.rpartition(":")
        return f"{package}{colon}{spec.id}"
    raise UserError(f"unknown game {game[:80]!r}{_fix(game, known_short_names)} {_HINT}")


def _fix(game: str, known_short_names: Iterable[str]) -> str:
    if plain_name(game) in map(plain_name, _TWO_PLAYER_ROMS):
        return ": this ROM has no single-player mode, choose another game"
    if (prefixed := id_with_package(game)) is not None:
        return f": did you mean {prefixed} (which imports the package first; it must be installed)?"
    suggestion = did_you_mean(game, [*known_short_names, *atari_roms(), *_modern_ids(), *minatar_ids()])
    if suggestion:
        return suggestion
    if "/" in game or ":" in game:
        return ": install the package that registers it, and write package:Name-v0 if it must be imported first"
    return ": expected an ALE ROM name such as kung_fu_master or a Gymnasium id such as CartPole-v1"


def _modern_ids() -> list[str]:
    """Return the registered ids to suggest: all but the hundreds of outdated Atari ids such as ``Pong-v0``."""
    return [name for name, spec in _registry().items() if "/" in name or spec.entry_point != _ATARI_ENTRY_POINT]


def _gymnasium_spec(game: str) -> EnvSpec | None:
    """Return the environment registered under ``game``, or under the only id that equals it ignoring case."""
    if (spec := _registered(game)) is not None:
        return spec
    package, _, name = game.rpartition(":")
    if package and not _imports(package):
        return None
    alike = [spec for known, spec in _registry().items() if known.casefold() == name.casefold()]
    return alike[0] if len(alike) == 1 else None


def _registered(game: str) -> EnvSpec | None:
    package, _, name = game.rpartition(":")
    if package and not _imports(package):
        return None
    return _registry().get(name)


def _imports(package: str) -> bool:
    """Import ``package``, which registers its environments; return False if there is none of this name.

    Raises:
        UserError: it is there, and cannot be imported.
    """
    if not re.fullmatch(r"\w+(\.\w+)*", package):
        return False
    try:
        importlib.import_module(package)
    except Exception as error:  # a package may raise anything
        if isinstance(error, ModuleNotFoundError) and error.name and f"{package}.".startswith(f"{error.name}."):
            return False
        raise UserError(
            f"package {package!r} of the game cannot be imported: {type(error).__name__}: {error} (install what it "
            "needs, or another version of it)"
        ) from error
    return True


def _registry() -> dict[str, EnvSpec]:
    import ale_py  # noqa: F401  (importing it registers the Atari ids)
    import gymnasium

    return gymnasium.registry
