"""Methods that protect earlier tasks: one module each, found by its name."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blip_rl.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from blip_rl.methods.base import Method

_NOT_METHODS = {"__init__", "attach", "base", "blip_settings", "fisher_method", "projection_method"}


def method_names() -> list[str]:
    """Return the names of all methods, which are the files of this package. Imports none of them."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem not in _NOT_METHODS)


def load_method(name: str) -> type[Method]:
    """Import the ``Method`` subclass that the file of this name defines.

    Raises:
        UserError: no method has this name.
    """
    name = name.replace("-", "_")
    if name not in method_names():
        hint = did_you_mean(name, method_names()) or f": expected one of {', '.join(method_names())}"
        raise UserError(f"unknown method {name!r}{hint} (blip-rl list methods)")
    from blip_rl.methods.base import Method

    module = import_module(f"blip_rl.methods.{name}")
    (found,) = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Method) and value.__module__ == module.__name__
    ]
    return found


def learns_together(name: str) -> bool:
    """Return whether the method of this name learns all tasks at once.

    Raises:
        UserError: no method has this name.
    """
    return load_method(name).interleaved


def make_method(section: dict[str, Any]) -> Method:
    """Build a method from the ``[method]`` section of a recipe: its ``name`` and settings.

    Raises:
        UserError: no method has this name, or a setting is invalid.
    """
    settings = dict(section)
    return load_method(str(settings.pop("name")))(**settings)
