"""The wrappers of a task in a recipe: the name of a class, and keyword arguments.

The class is neither imported nor called here: a recipe may be untrusted (:mod:`blip_rl.recipes.trust`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_serializer, model_validator

from blip_rl.setting_types import Matching

GYMNASIUM_WRAPPERS = "gymnasium.wrappers"
"""Module whose wrappers every recipe may use; :mod:`blip_rl.tasks.wrappers` refuses those that write files."""

_MOST_WRAPPERS = 20
_NAME = r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*"
_RULE = 'package.module:Class, for example "gymnasium.wrappers:FlattenObservation"'


class WrapperConfig(BaseModel):
    """A wrapper of an environment. Every key but ``wrapper`` is a keyword argument of its class.

    Text stands for a wrapper without arguments: ``"package.module:Class"``.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    wrapper: Annotated[str, AfterValidator(Matching(_NAME, _RULE))]
    """Module and name of the class."""

    @property
    def module(self) -> str:
        """Module of the class."""
        return self.wrapper.partition(":")[0]

    @property
    def class_name(self) -> str:
        """Name of the class in its module."""
        return self.wrapper.partition(":")[2]

    @property
    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of the class; arrays as tuples, which Gymnasium's wrappers expect."""
        return {name: _with_tuples(value) for name, value in (self.model_extra or {}).items()}

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, values: Any) -> Any:
        return {"wrapper": values} if isinstance(values, str) else values

    @model_validator(mode="after")
    def _has_plain_arguments(self) -> Self:
        for name, value in (self.model_extra or {}).items():
            if not name.isidentifier() or name == "env":
                raise ValueError(f"{name[:80]!r}: expected the name of an argument of {self.wrapper} other than 'env'")
            if not _is_plain(value):
                raise ValueError(
                    f"{name} = {str(value)[:80]}: expected text, true or false, finite numbers, or lists and tables of "
                    "them"
                )
        return self

    @model_serializer(mode="wrap")
    def _as_written(self, dump: Callable[[Any], dict[str, Any]]) -> str | dict[str, Any]:
        return dump(self) if self.model_extra else self.wrapper


Wrappers = Annotated[tuple[WrapperConfig, ...], Field(max_length=_MOST_WRAPPERS)]


def _is_plain(value: object) -> bool:
    """Return whether a value is the same after it is written to a recipe and read again; dates are not."""
    if isinstance(value, dict):
        return all(_is_plain(inner) for inner in value.values())
    if isinstance(value, list):
        return all(_is_plain(inner) for inner in value)
    return isinstance(value, str | bool | int) or (isinstance(value, float) and math.isfinite(value))


def _with_tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _with_tuples(inner) for name, inner in value.items()}
    return tuple(map(_with_tuples, value)) if isinstance(value, list) else value
