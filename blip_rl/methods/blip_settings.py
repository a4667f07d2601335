"""Settings of BLIP."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from blip_rl.core import bits
from blip_rl.methods.fisher_method import FisherSettings
from blip_rl.setting_types import PositiveFloat


class BlipSettings(FisherSettings):
    """Settings of BLIP; the paper's and the released code's rules can be mixed. Priors: in units of the true Fisher."""

    total_bits: Annotated[int, Field(ge=1, le=22)] = bits.TOTAL_BITS
    """N: bits of each weight."""
    gain: Literal["paper", "reference"] = "reference"
    """Rule for the bits that a task freezes: paper Eq. 8, or that of the released code, which freezes none of a
    weight with little information."""
    round_after_task: bool = False
    """Set each weight to its interval's centre after a task (the reference does)."""
    nested: bool = True
    """Keep each interval inside all earlier ones; neither the paper nor the released code does."""
    interval: bits.IntervalRule = "paper"
    """Half-width: ``paper``: 2^−S (Eq. 4), where frozen bits can change; ``half``: half of it, where they cannot."""
    quantize_forward: bool = True
    """Quantise the weights of the forward pass to the N-bit grid (paper Eq. 3); the reference uses plain floats."""
    weight_bound: Literal["fan", "unit"] = "fan"
    """b of the weights: 6/√fan (the reference) or 1 (the paper). Biases: 1."""
    prior_scale: Literal["fan", "uniform"] = "fan"
    """F₀ times the layer's fan (the reference) or the same everywhere (the paper)."""
    fisher_prior: PositiveFloat | None = None
    """F₀, in units of the true Fisher. Set exactly one of this, ``first_task_bits`` and ``first_task_drift``."""
    first_task_bits: PositiveFloat | None = None
    """Solve for the prior: mean of the bits that the first task freezes, over weights with Fisher information."""
    first_task_drift: PositiveFloat | None = None
    """Solve for the prior: worst divergence, in nats, of a policy inside the intervals that the first task leaves from
    that at their centres, to second order; see :mod:`core.prior`."""

    @model_validator(mode="after")
    def _one_prior(self) -> Self:
        asked = {name: getattr(self, name) for name in ("fisher_prior", "first_task_bits", "first_task_drift")}
        given = {name: value for name, value in asked.items() if value is not None}
        if len(given) != 1:
            shown = ", ".join(f"{name} = {value}" for name, value in (given or asked).items())
            count = {0: "none is", 2: "both are"}.get(len(given), "all are")
            raise ValueError(
                f"{shown}: {count} given; expected exactly one: a prior for the Fisher, the mean number of bits "
                "that the first task freezes, or the worst divergence of its policy inside the intervals, in nats"
            )
        return self

    @model_validator(mode="after")
    def _bits_within_reach(self) -> Self:
        least = 1 if self.gain == "paper" else 0
        if self.first_task_bits is None or least <= self.first_task_bits < self.total_bits:
            return self
        rule = f"less than total_bits = {self.total_bits}"
        if self.first_task_bits < least:
            rule = "at least 1 with gain = 'paper', which freezes a bit of every weight with Fisher information"
        raise ValueError(f"first_task_bits = {self.first_task_bits}: expected {rule}")
