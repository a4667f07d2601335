"""Types of recipe settings: numbers with their allowed ranges, and the base class of every section."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from blip_rl.step_counts import parse_steps


def reject_bool(value: object) -> object:
    """Reject ``true`` as a number; pydantic would convert it to 1."""
    if isinstance(value, bool):
        raise ValueError(f"{value!r}: expected a number")
    return value


@dataclass(frozen=True)
class Matching:
    """Validator of text: at most 80 characters that match a pattern.

    Attributes:
        pattern: Regular expression for the whole text.
        rule: The pattern in words, for messages and documentation.
    """

    pattern: str
    rule: str

    def __call__(self, value: str) -> str:
        """Return the text.

        Raises:
            ValueError: It is too long or does not match.
        """
        if len(value) > 80 or not re.fullmatch(self.pattern, value):
            raise ValueError(f"{value!r}: expected {self.rule}")
        return value


Steps = Annotated[int, Field(ge=1, le=10**15), BeforeValidator(parse_steps)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0), BeforeValidator(reject_bool)]
PositiveFloat = Annotated[float, Field(gt=0.0, allow_inf_nan=False), BeforeValidator(reject_bool)]
NonNegativeFloat = Annotated[float, Field(ge=0.0, allow_inf_nan=False), BeforeValidator(reject_bool)]
PositiveInt = Annotated[int, Field(ge=1), BeforeValidator(reject_bool)]
Seed = Annotated[int, Field(ge=0, lt=2**30), BeforeValidator(reject_bool)]
Device = Annotated[str, AfterValidator(Matching(r"auto|cpu|cuda(:\d{1,3})?", "auto, cpu, cuda or cuda:N"))]
Units = Annotated[int, Field(ge=1, le=65_536), BeforeValidator(reject_bool)]
Kernel = Annotated[int, Field(ge=1, le=210), BeforeValidator(reject_bool)]
_NAME_RULE = "a name of at most 80 letters, digits and _ . : - that starts with a letter or digit"
TaskName = Annotated[str, AfterValidator(Matching(r"[A-Za-z0-9][A-Za-z0-9_.:-]*", _NAME_RULE))]
_REFERENCE_RULE = "at most 80 characters, none of them a control character"
ReferenceName = Annotated[str, AfterValidator(Matching(r"[^\x00-\x1f\x7f]*", _REFERENCE_RULE))]
Activation = Literal["relu", "tanh", "elu", "silu"]
Precision = Literal["float32", "tf32", "bfloat16"]


class Settings(BaseModel):
    """Base class of recipe sections: immutable, and rejects unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)
