"""The interval rule ``half`` keeps the first S bits of a weight, the paper's rule does not; nesting under both."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from blip_rl.core import bits

BOUNDS = [1.0, 0.75, 6 / math.sqrt(18), 6 / math.sqrt(577), 6 / math.sqrt(6272)]
TOTALS = [1, 2, 3, 4, 7, 20, 22]


def grid_points(total_bits):
    """Every θ̂ that a weight may have."""
    steps = 2**total_bits
    return torch.arange(-steps + 1, steps, dtype=torch.float64) / steps


def rounded(point, bits_kept):
    """Q(θ̂, n) in exact arithmetic: Eq. 2, halves to the even neighbour."""
    scale = 2**bits_kept
    limit = 1 - Fraction(1, 2 * scale)
    return Fraction(round(min(max(Fraction(point), -limit), limit) * scale), scale)


@pytest.mark.parametrize("total_bits", [1, 2, 3, 5, 7])
def test_interval_contains_the_points_that_round_to_the_centre_except_ties(total_bits):
    """Every point of the grid with every number of bits, against Eq. 2 in fractions."""
    points = grid_points(total_bits)
    for frozen in range(1, total_bits):
        kept = [rounded(point, frozen) for point in points.tolist()]
        for centre in sorted(set(kept)):
            low, high = bits.interval(torch.tensor([float(centre)]), frozen, 1.0, total_bits, "half")
            same = [point for point, q in zip(points.tolist(), kept, strict=True) if q == centre]
            ties = {float(centre - Fraction(1, 2 ** (frozen + 1))), float(centre + Fraction(1, 2 ** (frozen + 1)))}
            without_ties = [point for point in same if point not in ties]
            expected = (without_ties[0], without_ties[-1]) if without_ties else (low.item(), low.item())
            assert (low.item(), high.item()) == expected


@given(weight=st.floats(-1, 1, width=32), frozen=st.integers(1, 19), where=st.floats(0, 1))
def test_points_of_the_interval_have_the_same_first_bits(weight, frozen, where):
    centre = bits.quantize(torch.tensor([weight]), frozen, 1.0)
    low, high = bits.interval(centre, frozen, 1.0, rule="half")
    moved = bits.quantize(low + where * (high - low), 20, 1.0)
    for point in (low, high, moved.clamp(low, high)):
        assert bits.quantize(point, frozen, 1.0) == centre
        assert rounded(point.item(), frozen) == Fraction(centre.item())


@pytest.mark.parametrize("rule", ["paper", "half"])
def test_interval_is_the_whole_range_without_frozen_bits_and_a_point_without_free_bits(rule):
    limit = 1 - 2.0**-8
    low, high = bits.interval(torch.zeros(1), 0, 1.0, 8, rule)
    assert (low.item(), high.item()) == (-limit, limit)
    low, high = bits.interval(torch.full((1,), 0.25), 8, 1.0, 8, rule)
    assert (low.item(), high.item()) == (0.25, 0.25)


@pytest.mark.parametrize("rule", ["paper", "half"])
@pytest.mark.parametrize("total_bits", TOTALS)
def test_the_radius_is_half_the_interval_and_falls_with_every_bit(rule, total_bits):
    frozen = torch.arange(total_bits + 1, dtype=torch.uint8)
    radius = bits.radius(frozen, total_bits, rule, dtype=torch.float64)
    low, high = bits.interval(torch.zeros(total_bits + 1, dtype=torch.float64), frozen, 1.0, total_bits, rule)
    assert torch.equal(radius, (high - low) / 2)
    assert (radius[1:] <= radius[:-1]).all()
    assert radius[-1] == 0


def test_half_radius_is_half_the_papers_minus_one_grid_step():
    frozen = torch.arange(1, 19, dtype=torch.uint8)
    paper, half = (bits.radius(frozen, 20, rule, dtype=torch.float64) for rule in ("paper", "half"))
    assert torch.equal(half, paper / 2 - 2.0**-20)


@pytest.mark.parametrize(
    "call",
    [
        lambda: bits.radius(torch.ones(1, dtype=torch.uint8), 20, "full"),
        lambda: bits.interval(torch.zeros(1), 1, 1.0, rule="full"),
        lambda: bits.nested_centre(*[torch.ones(1)] * 4, 1.0, rule="full"),
    ],
)
@pytest.mark.usefixtures("without_type_checks")
def test_an_unknown_rule_is_refused(call):
    with pytest.raises(ValueError, match="rule 'full': expected 'paper' or 'half'"):
        call()


def walk(bound, total_bits, seed, *, rule="half", tasks=8, count=2000):
    """Let weights walk inside nested intervals while bits freeze; a third of them sit on an end of their interval.

    Yields (weight, S, low, high) at the end of each task.
    """
    generator = torch.Generator().manual_seed(seed)
    centre, frozen = torch.zeros(count), torch.zeros(count, dtype=torch.uint8)
    low, high = bits.interval(centre, frozen, bound, total_bits, rule)
    for _ in range(tasks):
        where = (torch.rand(count, generator=generator) * 1.5 - 0.25).clamp(0, 1)
        weight = bits.quantize(low + where * (high - low), total_bits, bound).clamp(low, high)
        grown = torch.randint(-3, 5, (count,), generator=generator).float()
        before, frozen = frozen, bits.freeze(grown, frozen, total_bits)
        centre = bits.nested_centre(weight, frozen, centre, before, bound, total_bits, rule)
        low, high = bits.interval(centre, frozen, bound, total_bits, rule)
        yield weight, frozen, low, high


def changes(stages, bound):
    """How many weights have, at any later stage, other first S bits than at an earlier one, S the earlier one's."""
    return sum(
        (bits.quantize(weight, frozen, bound) != bits.quantize(later, frozen, bound)).sum().item()
        for place, (weight, frozen, _, _) in enumerate(stages)
        for later, *_ in stages[place + 1 :]
    )


@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("total_bits", TOTALS)
def test_first_bits_of_every_earlier_task_are_kept(bound, total_bits):
    stages = list(walk(bound, total_bits, seed=total_bits))
    assert changes(stages, bound) == 0
    assert (stages[-1][1] == total_bits).any()


def test_papers_interval_lets_first_bits_change():
    """The rule ``half`` keeps the first S bits of Q, nested or not."""
    assert changes(list(walk(1.0, 20, seed=0, rule="paper")), 1.0) > 1000


@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("total_bits", TOTALS)
@pytest.mark.parametrize("rule", ["paper", "half"])
def test_nested_intervals_lie_inside_all_earlier_ones_and_contain_the_weight(bound, total_bits, rule):
    """Under ``half`` a weight on a tie may be one step outside (and half a step more for rounding)."""
    step = 1.5 * bound * 2.0**-total_bits if rule == "half" else 0.0
    lowest, highest = torch.tensor(-math.inf), torch.tensor(math.inf)
    for weight, _, low, high in walk(bound, total_bits, seed=1, rule=rule):
        assert (low >= lowest).all()
        assert (high <= highest).all()
        assert (low <= high).all()
        assert (low - weight <= step).all()
        assert (weight - high <= step).all()
        lowest, highest = low, high


def test_nested_half_intervals_keep_at_least_half_their_width():
    """Whole, or half where an outer edge cuts them, which a third of these weights sit on."""
    for _, frozen, low, high in walk(1.0, 20, seed=2):
        partly = (frozen > 0) & (frozen < 17)
        room = ((high - low) * 2.0 ** frozen.float())[partly]
        assert (room >= 0.5 - 2 * 2.0**-3).all()
        assert (room > 0.7).float().mean() > 0.4
