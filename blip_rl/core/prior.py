"""Solve for the prior F₀ with which the first task freezes a given number of bits, or bounds the policy's drift.

To second order, moving the weights by Δ changes the policy by a KL divergence of ½ Δᵀ F Δ. If every weight moves from
the centre of its interval to an end, in the worst direction, this is at most the drift ½ (Σᵢ √Fᵢ rᵢ)², rᵢ the half-
width of the interval of weight i. The learned weights are up to 2^−(S+1) away from the centres, so that from them the
divergence can be up to 2.25 times as large; 4 times with the half-width 2^−(S+1) or S = 0. Mean bits fall and the
drift rises with F₀, both in steps, so bisection over log₂ F₀ finds the prior.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from blip_rl.core.bits import TOTAL_BITS, GainRule, IntervalRule, freeze, information_gain, radius
from blip_rl.core.blocks import row_blocks

_LOG2_LOWEST, _LOG2_HIGHEST = -120.0, 60.0  # well inside float32, far outside any Fisher seen in practice
_FINEST = 1e-7  # width in log₂ F₀ at which a search ends: below the resolution of float32
_BITS_TOLERANCE = 1e-3
_DRIFT_TOLERANCE = 1e-3  # relative
_BITS_NOTED = 0.05  # a larger difference from the target is reported
_TOTAL_BITS_MOST = 22
LEAST_FISHER = 2.0 ** (2 * _TOTAL_BITS_MOST + _LOG2_LOWEST)
"""A Fisher value below this (1e-23, in units of the prior) counts as no information: no prior could freeze all bits."""


@dataclass(frozen=True)
class ParameterFisher:
    """The Fisher information of one parameter after the first task.

    Attributes:
        fisher: F ≥ 0.
        fan: Factor of the prior.
        bound: b.
        is_weight: Whether its bits count; biases contribute to the drift only.
    """

    fisher: Float[Tensor, " ..."]
    fan: float = 1.0
    bound: float = 1.0
    is_weight: bool = True


@dataclass(frozen=True)
class PriorOutcome:
    """Outcome of the first task with a prior.

    Attributes:
        prior: F₀.
        informed_bits: Mean frozen bits over the weights with information; 0 if there are none.
        bits: Mean frozen bits over all weights.
        drift: ½ (Σ √F r)² over all parameters, in nats.
        informed: Number of weights with information.
    """

    prior: float
    informed_bits: float
    bits: float
    drift: float
    informed: int


@dataclass(frozen=True)
class PriorSearch:
    """Solves for the prior.

    Attributes:
        parameters: All parameters of the trunk.
        gain: The gain rule that the prior will be used with.
        interval: The interval rule.
        total_bits: N.
    """

    parameters: Sequence[ParameterFisher]
    gain: GainRule = "reference"
    interval: IntervalRule = "paper"
    total_bits: int = TOTAL_BITS

    def outcome(self, prior: float) -> PriorOutcome:
        """Compute the outcome of the first task with a prior, with the same arithmetic as consolidation."""
        # Summed in float64 and integers: float32 would lose small √F r among those of millions of weights.
        weights, informed, bits, informed_bits, reach = 0, 0, 0, 0, 0.0
        for parameter in self.parameters:
            for fisher, frozen in self._frozen(parameter, prior):
                half_width = radius(frozen, self.total_bits, self.interval, dtype=fisher.dtype)
                reach += parameter.bound * (fisher.sqrt() * half_width).sum(dtype=torch.float64).item()
                if parameter.is_weight:
                    known = has_information(fisher, parameter.fan)
                    # One transfer of three counts: each .item() would wait for the GPU.
                    counts = torch.stack([known.sum(), frozen.sum(), (frozen * known).sum()]).tolist()
                    weights += fisher.numel()
                    informed, bits, informed_bits = informed + counts[0], bits + counts[1], informed_bits + counts[2]
        return PriorOutcome(prior, informed_bits / max(1, informed), bits / max(1, weights), 0.5 * reach**2, informed)

    def for_bits(self, target: float) -> PriorOutcome | None:
        """Find the prior whose mean of frozen bits, over the weights with information, is nearest to ``target``.

        Args:
            target: 0 < target < N; at least 1 with the paper's gain, which freezes a bit of every such weight.

        Returns:
            The outcome of that prior, or None if no weight has information. With few informed weights the mean may
            jump across the target.
        """

        def done(found: PriorOutcome) -> bool:
            return abs(found.informed_bits - target) <= _BITS_TOLERANCE

        weights = [parameter for parameter in self.parameters if parameter.is_weight]
        sides = self._search(self._range(weights), lambda found: found.informed_bits >= target, done)
        return min(sides, key=lambda side: abs(side.informed_bits - target)) if sides else None

    def for_drift(self, target: float) -> PriorOutcome | None:
        """Find the highest prior whose drift is at most ``target`` nats.

        Returns:
            The outcome of that prior, or None if no parameter has information. Its drift is well below the target if
            the drift jumps across it, or is lower even without frozen bits.
        """

        def done(found: PriorOutcome) -> bool:
            return target * (1 - _DRIFT_TOLERANCE) <= found.drift <= target

        sides = self._search(self._range(self.parameters), lambda found: found.drift <= target, done)
        return max(sides, key=lambda side: (side.drift <= target, side.prior)) if sides else None

    def _search(
        self,
        ends: tuple[float, float] | None,
        low_side: Callable[[PriorOutcome], bool],
        done: Callable[[PriorOutcome], bool],
    ) -> tuple[PriorOutcome, ...] | None:
        """Bisect between two values of log₂ F₀.

        Returns:
            Outcomes of the two priors that bracket the target: the highest found for which ``low_side`` holds and the
            lowest for which it does not. A single one if it is ``done`` or the whole range is on one side.
        """
        if ends is None:
            return None
        bottom, top = ends
        low, high = self.outcome(2.0**bottom), self.outcome(2.0**top)
        if not low_side(low) or low_side(high):
            return (high,) if low_side(high) else (low,)
        # Both outcomes are step functions of F₀. The bracket keeps one prior on each side of the target, so that the
        # caller can choose a side where the function jumps across it.
        while top - bottom > _FINEST:
            middle = (bottom + top) / 2
            found = self.outcome(2.0**middle)
            if done(found):
                return (found,)
            if low_side(found):
                bottom, low = middle, found
            else:
                top, high = middle, found
        return low, high

    def _range(self, parameters: Sequence[ParameterFisher]) -> tuple[float, float] | None:
        """Return the range of log₂ F₀ that affects the parameters; None if they have no information.

        At its lower end all bits of every informed weight freeze, at its upper end as few as possible. A prior outside
        of it would make later tasks freeze everything, or nothing.
        """
        lowest, highest = math.inf, 0.0
        for parameter in parameters:
            for (fisher,) in row_blocks(parameter.fisher):
                known = fisher[has_information(fisher, parameter.fan)] / parameter.fan
                if known.numel():
                    least, most = torch.aminmax(known)
                    lowest, highest = min(lowest, least.item()), max(highest, most.item())
        if highest == 0:
            return None
        # All N bits of the least informed weight freeze if its gain is above N − 1; ½ log₂(F / F₀) ≥ N is enough, and
        # one factor of 2 more for the reference's rule, whose gain is half a bit lower. At F₀ = 2F the gain is at most
        # ½ log₂(3/2): no bit under the reference's rule, one under the paper's.
        bottom, top = math.log2(lowest) - 2 * self.total_bits - 1, math.log2(highest) + 1
        return max(bottom, _LOG2_LOWEST), min(top, _LOG2_HIGHEST)

    def _frozen(
        self, parameter: ParameterFisher, prior: float
    ) -> Iterator[tuple[Float[Tensor, "*block"], UInt8[Tensor, "*block"]]]:
        """Yield blocks of a parameter: Fisher and frozen bits."""
        mean = torch.full((), prior * parameter.fan, dtype=parameter.fisher.dtype, device=parameter.fisher.device)
        nothing = torch.zeros((), dtype=torch.uint8, device=parameter.fisher.device)
        for (fisher,) in row_blocks(parameter.fisher):
            yield fisher, freeze(information_gain(fisher, mean, 1, self.gain), nothing, self.total_bits)


def has_information(fisher: Float[Tensor, "*shape"], fan: float = 1.0) -> Bool[Tensor, "*shape"]:
    """Return for each entry whether F / fan is at least :data:`LEAST_FISHER`."""
    return torch.ge(fisher, LEAST_FISHER * fan)


def solve_prior(
    fisher: Float[Tensor, " ..."], target_bits: float, rule: GainRule = "reference", total_bits: int = TOTAL_BITS
) -> tuple[float, float]:
    """Solve for bits with a single Fisher: :meth:`PriorSearch.for_bits` in one call, for scripts.

    Returns:
        (F₀, resulting mean of frozen bits over the weights with information).

    Raises:
        ValueError: no weight has information.
    """
    found = PriorSearch([ParameterFisher(fisher)], rule, total_bits=total_bits).for_bits(target_bits)
    if found is None:
        raise ValueError(f"no entry of the Fisher is above {LEAST_FISHER:.0e}: no prior can be solved for")
    return found.prior, found.informed_bits


def shortfall(
    found: PriorOutcome | None, target_bits: float | None, target_drift: float | None, total_bits: int
) -> str | None:
    """Describe how the outcome misses its target or leaves hardly any free bits; None if it does neither."""
    if found is None:
        return (
            "the task has no Fisher information about any weight, so no prior can be solved for: nothing is frozen, "
            "and the next task counts as the first"
        )
    if target_bits is None and target_drift is None:
        return None
    asked = f"first_task_drift = {target_drift:g}" if target_bits is None else f"first_task_bits = {target_bits:g}"
    does = (
        f"the nearest prior, {found.prior:.3g}, freezes {found.informed_bits:.2f} bits on average of the "
        f"{found.informed:,} weights with Fisher information and allows a drift of {found.drift:.3g} nats"
    )
    if target_bits is not None and abs(found.informed_bits - target_bits) > _BITS_NOTED:
        return f"{asked} cannot be reached: {does}"
    if found.informed_bits > total_bits - 1:
        return f"{asked} leaves almost no free bits for later tasks: {does}"
    return None
