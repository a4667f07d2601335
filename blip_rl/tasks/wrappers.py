"""Application of the Gymnasium wrappers of a task.

Importing a wrapper's module runs its code, and so does its class: recipes are checked first for wrappers that the user
does not trust (:mod:`blip_rl.recipes.trust`).
"""

from __future__ import annotations

import importlib
import inspect
import math
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import gymnasium
from gymnasium.spaces import flatdim

from blip_rl.errors import UserError, did_you_mean
from blip_rl.wrapper_config import GYMNASIUM_WRAPPERS, WrapperConfig

# Other wrappers of Gymnasium neither write files nor keep what a snapshot does not save.
_SAVED = "keeps statistics over many episodes, which snapshots do not save"
_FUNCTION = "needs a Python function, which a recipe cannot give: subclass it in a package of your own"
_REFUSED = {
    "RecordVideo": "writes files: use blip-rl render",
    "HumanRendering": "opens a window: use blip-rl render",
    "RenderCollection": "keeps every picture: use blip-rl render",
    "Autoreset": "starts new games, which blip-rl does itself",
    "NormalizeObservation": _SAVED,
    "NormalizeReward": _SAVED,
    "TransformObservation": _FUNCTION,
    "TransformAction": _FUNCTION,
    "TransformReward": _FUNCTION,
}
_MOST_ENTRIES = 10_000_000  # of an observation; a recipe may be untrusted, and Gymnasium allocates the bounds of each
_SIZES = ("stack_size", "shape", "bins")  # arguments of Gymnasium's wrappers that determine the size of a space


def apply_wrappers(
    env: gymnasium.Env[Any, Any], wrappers: Iterable[WrapperConfig], game: str
) -> gymnasium.Env[Any, Any]:
    """Wrap an environment, the first wrapper innermost.

    Args:
        env: The environment; closed if a wrapper fails.
        wrappers: Classes and arguments.
        game: Name of the game, for messages.

    Raises:
        UserError: a wrapper cannot be imported, is no class, does not take its arguments, or makes no environment.
    """
    for config in wrappers:
        try:
            env = _wrapped(env, config, game)
        except UserError:
            env.close()
            raise
    return env


def _wrapped(env: gymnasium.Env[Any, Any], config: WrapperConfig, game: str) -> gymnasium.Env[Any, Any]:
    wrapper = _wrapper_class(config, game)
    shown = f"game {game!r}: wrapper {config.wrapper!r}"
    if config.module == GYMNASIUM_WRAPPERS and (entries := _entries(env, config)) > _MOST_ENTRIES:
        raise UserError(
            f"{shown} makes a space of {entries:,} entries: expected at most {_MOST_ENTRIES:,} (correct its arguments)"
        )
    try:
        wrapped = wrapper(env, **config.arguments)
    except Exception as error:  # the class is not ours: it may raise anything
        given = ", ".join(config.arguments) or "none"
        raise UserError(
            f"{shown} cannot be applied: {type(error).__name__}: {error} (arguments of the recipe: {given}; correct "
            "them, or the order of the wrappers)"
        ) from error
    if not isinstance(wrapped, gymnasium.Env):
        raise UserError(
            f"{shown} makes an object of class {type(wrapped).__name__}: expected a gymnasium.Env; name a subclass of "
            "gymnasium.Wrapper"
        )
    return wrapped


def _entries(env: gymnasium.Env[Any, Any], config: WrapperConfig) -> int:
    """Return the number of entries of the space that a wrapper of Gymnasium allocates, as far as it can be told."""
    numbers = []
    for name in _SIZES:
        given = config.arguments.get(name)
        numbers += [number for number in (given if isinstance(given, tuple) else (given,)) if isinstance(number, int)]
    if config.class_name == "FlattenObservation":
        with suppress(NotImplementedError, ValueError):  # cannot be flattened: the wrapper itself raises
            numbers.append(flatdim(env.observation_space))
    if config.class_name == "FrameStackObservation":
        numbers.append(math.prod(env.observation_space.shape or ()))
    return math.prod(numbers)


def _wrapper_class(config: WrapperConfig, game: str) -> Callable[..., object]:
    """Import a module and return the class of a wrapper.

    Raises:
        UserError: the module cannot be imported, or has no such class, or a wrapper that cannot be used here.
    """
    shown = f"game {game!r}: wrapper {config.wrapper!r}"
    if config.module == GYMNASIUM_WRAPPERS and config.class_name in _REFUSED:
        raise UserError(f"{shown} {_REFUSED[config.class_name]} (remove it from the task)")
    try:
        module = importlib.import_module(config.module)
        found = getattr(module, config.class_name, None)
    except Exception as error:  # a module may raise anything
        raise UserError(
            f"{shown} cannot be imported: {type(error).__name__}: {error} (install its package, or add its folder to "
            "PYTHONPATH)"
        ) from error
    if config.module == GYMNASIUM_WRAPPERS and not (inspect.isclass(found) and issubclass(found, gymnasium.Wrapper)):
        found = None
    if not inspect.isclass(found):
        hint = did_you_mean(config.class_name, [name for name, _ in inspect.getmembers(module, inspect.isclass)])
        what = "has no wrapper" if found is None else f"is no class but {type(found).__name__}"
        raise UserError(f"{shown}: module {config.module!r} {what} {config.class_name!r}{hint}: expected a class")
    return found
