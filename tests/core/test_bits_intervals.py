"""Intervals of weights, nested centres, and the in-place projection and quantization."""

import math
from fractions import Fraction
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from blip_rl.core import bits, projection

BOUNDS = [1.0, 0.75, 6 / math.sqrt(18), 6 / math.sqrt(577), 6 / math.sqrt(6272)]


def random_state(count, bound, total_bits, seed):
    """Weights on the whole range and beyond, with every number of frozen bits, and their centres."""
    generator = torch.Generator().manual_seed(seed)
    weight = (torch.rand(count, generator=generator) * 2.4 - 1.2) * bound
    frozen = torch.randint(0, total_bits + 1, (count,), generator=generator, dtype=torch.uint8)
    weight = bits.quantize(weight.clamp(-bound * (1 - 2.0**-total_bits), bound * (1 - 2.0**-total_bits)), 20, bound)
    return weight, frozen, bits.quantize(weight, frozen, bound)


# --- interval


@given(weight=st.floats(-1, 1, width=32), frozen=st.integers(0, 20))
def test_interval_equals_equation_4_in_exact_arithmetic(weight, frozen):
    centre = bits.quantize(torch.tensor([weight]), frozen, 1.0)
    low, high = bits.interval(centre, frozen, 1.0)
    limit = 1 - Fraction(1, 2**20)
    radius = Fraction(1, 2**frozen) if frozen < 20 else Fraction(0)
    exact = Fraction(centre.item())
    assert Fraction(low.item()) == min(max(exact - radius, -limit), limit)
    assert Fraction(high.item()) == min(max(exact + radius, -limit), limit)


@pytest.mark.parametrize("total_bits", [1, 4, 20, 22])
@pytest.mark.parametrize("bound", BOUNDS)
def test_interval_ends_are_on_the_grid_to_the_bit_and_inside_the_limits(bound, total_bits):
    _, frozen, centre = random_state(2000, bound, total_bits, seed=1)
    low, high = bits.interval(centre, frozen, bound, total_bits)
    for end in (low, high):
        assert torch.equal(bits.quantize(end, total_bits, bound), end)
        assert (end.abs() <= torch.tensor(bound * (1 - 2.0**-total_bits))).all()
    assert (low <= high).all()


@pytest.mark.parametrize("bound", BOUNDS)
def test_interval_of_a_fully_frozen_weight_is_its_centre(bound):
    weight, _, _ = random_state(2000, bound, 20, seed=2)
    centre = bits.quantize(weight, 20, bound)
    low, high = bits.interval(centre, 20, bound)
    assert torch.equal(low, high)
    assert torch.equal(low, centre)


def test_project_clips_to_the_interval():
    weight, low, high = torch.tensor([-2.0, 0.1, 2.0]), torch.tensor([-1.0, 0.0, 0.5]), torch.tensor([-0.5, 1.0, 1.0])
    assert bits.project(weight, low, high).tolist() == pytest.approx([-1.0, 0.1, 1.0])


# --- nested centres


def chain(centre_of, bound, seed, tasks=10, count=3000):
    """Let weights walk inside their intervals for some tasks that freeze bits; yields every task's state.

    The walk likes edges: a third of the weights sit on one of their interval's ends.
    """
    generator = torch.Generator().manual_seed(seed)
    centre, frozen = torch.zeros(count), torch.zeros(count, dtype=torch.uint8)
    low, high = bits.interval(centre, frozen, bound)
    for _ in range(tasks):
        where = (torch.rand(count, generator=generator) * 1.5 - 0.25).clamp(0, 1)
        weight = bits.quantize(bits.project(low + where * (high - low), low, high), 20, bound)
        grown = torch.randint(-3, 5, (count,), generator=generator).float()
        before, frozen = frozen, bits.freeze(grown, frozen)
        centre = centre_of(weight, frozen, centre, before, bound)
        low, high = bits.interval(centre, frozen, bound)
        yield weight, frozen, centre, low, high


def test_intervals_without_nesting_leave_earlier_ones():
    def newest_centre(weight, frozen, centre, before, bound):
        return bits.quantize(weight, frozen, bound)

    *_, (_, _, _, low, _) = chain(newest_centre, 1.0, seed=0, tasks=1)
    *_, (_, _, _, later_low, _) = chain(newest_centre, 1.0, seed=0, tasks=4)
    assert (later_low < low).any()


def test_nested_intervals_keep_their_full_width():
    """Exactly 2·2^−S wide wherever the global limits do not cut them; with bound 1 all numbers are dyadic."""
    for _, frozen, centre, low, high in chain(bits.nested_centre, 1.0, seed=3):
        radius = torch.where(frozen < 20, 2.0 ** -frozen.float(), torch.zeros(()))
        whole = centre.abs() + radius <= 1 - 2.0**-20
        assert whole.sum() > 500
        assert torch.equal((high - low)[whole], 2 * radius[whole])
        cut = ~whole
        assert ((high - low)[cut] >= 2 * radius[cut] - 2 * 2.0**-20).all()


def test_a_nested_centre_stays_where_no_bits_grow_and_is_the_quantised_weight_away_from_edges():
    bound = 0.75
    states = list(chain(bits.nested_centre, bound, seed=4))
    for (_, before, old, _, _), (weight, after, new, _, _) in pairwise(states):
        same = before == after
        assert torch.equal(new[same], old[same])
        plain = bits.quantize(weight, after, bound)
        moved = ((new - plain) / bound).abs()[~same]
        assert (moved <= 2.0 ** -after[~same].float() * (1 + 1e-6)).all()  # one step of its grid at most
        assert (moved == 0).float().mean() > 0.5


# --- project_and_quantize_


@pytest.mark.parametrize("total_bits", [4, 8, 20, 22])
@pytest.mark.parametrize("shape", [(), (5,), (7, 3), (4, 3, 5, 5), (1, 2, 3, 3)])
@pytest.mark.parametrize("bound", BOUNDS)
def test_in_place_projection_equals_quantize_of_project_bit_for_bit(shape, bound, total_bits):
    layout = torch.channels_last if len(shape) == 4 else torch.contiguous_format
    centre = (torch.rand(shape) * 2 - 1).mul(bound).contiguous(memory_format=layout)
    frozen = torch.randint(0, 4, shape, dtype=torch.uint8)
    centre = bits.quantize(centre, frozen, bound)
    low, high = bits.interval(centre, frozen, bound, total_bits)
    weight, remainder = centre.clone(), torch.zeros_like(centre)
    plain_weight, plain_remainder = weight.clone(), remainder.clone()
    for _ in range(50):
        step = torch.randn(shape) * bound * 2.0 ** torch.randint(-total_bits - 3, 0, ())
        landed = bits.project(plain_weight + step + plain_remainder, low, high)
        plain_weight = bits.quantize(landed, total_bits, bound)
        plain_remainder = landed - plain_weight
        weight.add_(step)
        bits.project_and_quantize_(weight, remainder, low, high, bound, total_bits)
        assert torch.equal(weight, plain_weight)
        assert torch.equal(remainder, plain_remainder)
    assert weight.stride() == centre.stride()


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(7, 3), (12, 5, 3, 3), (2, 1000)])
def test_projection_in_blocks_equals_projection_at_once_bit_for_bit(shape, dtype, threads, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(projection, "CACHED", 40)
    layout = torch.channels_last if len(shape) == 4 else torch.contiguous_format
    bound = 6 / 7
    frozen = torch.randint(0, 4, shape)
    centre = bits.quantize(torch.rand(shape, dtype=dtype).mul(bound).contiguous(memory_format=layout), frozen, bound)
    low, high = bits.interval(centre, frozen, bound)
    whole, pieces = [(centre.clone(), torch.zeros_like(centre)) for _ in range(2)]
    for _ in range(30):
        step = torch.randn(shape, dtype=dtype) * bound * 2.0 ** torch.randint(-23, 0, ())
        for (weight, remainder), large in ((whole, 10**9), (pieces, 1)):
            monkeypatch.setattr(projection, "LARGE", large)
            assert projection.worth_blocks(weight) == (large == 1)
            weight.add_(step)
            bits.project_and_quantize_(weight, remainder, low, high, bound, bits.TOTAL_BITS)
        assert torch.equal(whole[0], pieces[0])
        assert torch.equal(whole[1], pieces[1])
    assert pieces[0].stride() == centre.stride()
    assert (pieces[1] != 0).any()


def test_error_in_a_thread_is_raised():
    def fail(number):
        if number:
            raise MemoryError("no room")

    with pytest.raises(MemoryError, match="no room"):
        projection._at_once(fail, 2)


def test_steps_below_the_grid_accumulate():
    """A hundred steps of a hundredth of the grid add up to one step of the grid."""
    weight, remainder = torch.zeros(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    low, high = bits.interval(weight, 0, 1.0, total_bits=4)
    for _ in range(100):
        weight.add_(2.0**-4 / 100)
        bits.project_and_quantize_(weight, remainder, low, high, 1.0, 4)
    assert weight.item() == 2.0**-4
    assert remainder.abs().item() < 1e-12
