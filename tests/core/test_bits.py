"""Quantisation, information gain, freezing and the running mean, each against a slow oracle in exact arithmetic."""

import math
from decimal import Decimal, getcontext
from fractions import Fraction

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from blip_rl.core import bits, released_code

getcontext().prec = 60

weights = st.floats(-2, 2, width=32)
bit_counts = st.integers(0, 20)
dyadic_bounds = st.sampled_from([0.25, 1.0, 4.0])
tasks = st.integers(1, 50)
rules = st.sampled_from(["paper", "reference"])


def float64(*values):
    return torch.tensor(values, dtype=torch.float64)


def quantize_oracle(weight: float, n: int, bound: float) -> Fraction:
    """Eq. 2 in fractions; Python rounds halves to even."""
    limit = 1 - Fraction(1, 2 ** (n + 1))
    normalised = min(max(Fraction(weight) / Fraction(bound), -limit), limit)
    return Fraction(round(normalised * 2**n), 2**n) * Fraction(bound)


def quantize_one(weight: float, n: int, bound: float, dtype=torch.float32) -> float:
    return bits.quantize(torch.tensor([weight], dtype=dtype), n, bound).item()


# --- quantize


@given(weight=weights, n=bit_counts, bound=dyadic_bounds)
def test_quantize_equals_equation_2_exactly_for_dyadic_bounds(weight, n, bound):
    assert Fraction(quantize_one(weight, n, bound)) == quantize_oracle(weight, n, bound)


@given(weight=st.floats(-2, 2), n=bit_counts, fan=st.integers(1, 7000))
def test_quantize_equals_equation_2_for_any_bound(weight, n, fan):
    bound = 6 / math.sqrt(fan)
    to_a_tie = abs((Fraction(weight) / Fraction(bound) * 2**n) % 1 - Fraction(1, 2))
    assume(to_a_tie > 1e-6)  # at a tie the rounding of weight / bound decides
    assert quantize_one(weight, n, bound, torch.float64) == pytest.approx(
        float(quantize_oracle(weight, n, bound)), rel=1e-14, abs=0
    )


@given(weight=weights, n=bit_counts, fan=st.integers(1, 7000))
def test_quantize_is_idempotent_and_odd_to_the_bit(weight, n, fan):
    bound = 6 / math.sqrt(fan)
    once = quantize_one(weight, n, bound)
    assert quantize_one(once, n, bound) == once
    assert quantize_one(-weight, n, bound) == -once


@given(weight=weights, other=weights, n=bit_counts, fan=st.integers(1, 7000))
def test_quantize_is_monotone(weight, other, n, fan):
    low, high = sorted((weight, other))
    bound = 6 / math.sqrt(fan)
    assert quantize_one(low, n, bound) <= quantize_one(high, n, bound)


@given(share=st.floats(-1, 1), n=bit_counts)
def test_quantize_moves_weights_by_at_most_half_a_step(share, n):
    weight = share * (1 - 2.0 ** -(n + 1))
    assert abs(quantize_one(weight, n, 1.0, torch.float64) - weight) <= 2.0 ** -(n + 1)


def test_quantize_takes_bits_for_each_weight_and_keeps_shape_type_and_layout():
    weight = torch.rand(3, 2, 4, 4).to(memory_format=torch.channels_last)
    frozen = torch.randint(0, 21, weight.shape, dtype=torch.uint8)
    quantized = bits.quantize(weight, frozen, 0.5)
    assert quantized.shape == weight.shape
    assert quantized.dtype == weight.dtype
    assert quantized.is_contiguous(memory_format=torch.channels_last)
    for w, n, q in zip(weight.flatten(), frozen.flatten(), quantized.flatten(), strict=True):
        assert Fraction(q.item()) == quantize_oracle(w.item(), n.item(), 0.5)


# --- information gain


def gain_oracle(fisher: float, mean: float, t: int, rule: str) -> Decimal:
    fisher, mean = Decimal(fisher), Decimal(mean)
    before = t * mean if rule == "paper" else (t + 1) * mean
    return ((t * mean + fisher) / before).ln() / Decimal(2).ln() / 2


@given(fisher=st.floats(0, 1e3, width=32), exponent=st.integers(-60, 0), t=tasks, rule=rules)
def test_information_gain_equals_equation_8_for_both_rules(fisher, exponent, t, rule):
    mean = 2.0**exponent
    gain = bits.information_gain(float64(fisher), float64(mean), t, rule).item()
    assert gain == pytest.approx(float(gain_oracle(fisher, mean, t, rule)), rel=1e-12, abs=1e-14)


@given(log_ratio=st.floats(-85, 30), t=tasks)
def test_papers_gain_freezes_a_bit_for_any_fisher_above_zero(log_ratio, t):
    fisher = torch.tensor([1e-9 * math.exp(log_ratio)])
    assume(fisher.item() > 1e-37)
    gain = bits.information_gain(fisher, torch.tensor([1e-9]), t, "paper")
    assert gain.item() > 0
    assert bits.freeze(gain, torch.zeros(1, dtype=torch.uint8)).item() >= 1


@pytest.mark.parametrize("rule", ["paper", "reference"])
@pytest.mark.parametrize("t", [1, 2, 7])
def test_fisher_of_zero_freezes_no_bits(rule, t):
    frozen = torch.tensor([0, 3, 20], dtype=torch.uint8)
    gain = bits.information_gain(torch.zeros(3), torch.full((3,), 1e-14), t, rule)
    assert torch.equal(bits.freeze(gain, frozen), frozen)


@pytest.mark.parametrize(("fisher_ratio", "expected"), [(3.0, 1), (3.1, 2), (15.0, 2), (4.0**20, 20), (1e30, 20)])
def test_each_bit_takes_four_times_the_fisher(fisher_ratio, expected):
    """½ log₂(1 + F/F₀): 1 bit at F = 3 F₀, 2 bits at 15 F₀, 20 bits just below 4²⁰ F₀ and above."""
    gain = bits.information_gain(float64(fisher_ratio), float64(1.0), 1, "paper")
    assert bits.freeze(gain, torch.zeros(1, dtype=torch.uint8)).item() == expected


@pytest.mark.usefixtures("without_type_checks")
def test_information_gain_refuses_an_unknown_rule_and_a_task_number_below_one():
    one = torch.ones(1)
    with pytest.raises(ValueError, match=r"rule 'papr': expected 'paper' or 'reference'"):
        bits.information_gain(one, one, 1, "papr")
    for t in (0, -1):
        with pytest.raises(ValueError, match=f"tasks_seen {t}: expected"):
            bits.information_gain(one, one, t)
        with pytest.raises(ValueError, match=f"tasks_seen {t}: expected"):
            bits.running_fisher(one, one, t)


# --- freeze


@given(gain=st.floats(-1e6, 1e6), frozen=st.integers(0, 20), total=st.integers(20, 22))
def test_freeze_equals_equation_9(gain, frozen, total):
    after = bits.freeze(float64(gain), torch.tensor([frozen], dtype=torch.uint8), total)
    assert after.dtype == torch.uint8
    assert after.item() == frozen + min(max(math.ceil(gain), 0), total - frozen)


@given(gain=st.floats(width=32), frozen=st.integers(0, 20))
def test_frozen_bits_never_fall_and_never_exceed_the_total(gain, frozen):
    after = bits.freeze(torch.tensor([gain]), torch.tensor([frozen], dtype=torch.uint8)).item()
    assert frozen <= after <= 20


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int64])
def test_freeze_accepts_gains_that_are_not_finite(dtype):
    gain = torch.tensor([math.inf, -math.inf, math.nan])
    after = bits.freeze(gain, torch.full((3,), 7, dtype=dtype))
    assert after.dtype == dtype
    assert after.tolist() == [20, 7, 7]


# --- running mean and constants


@given(prior=st.floats(1e-6, 10), fishers=st.lists(st.floats(0, 1e3), min_size=1, max_size=12))
def test_running_fisher_is_the_mean_over_the_prior_and_all_tasks(prior, fishers):
    mean = float64(prior)
    for t, fisher in enumerate(fishers, start=1):
        mean = bits.running_fisher(float64(fisher), mean, t)
    assert mean.item() == pytest.approx(math.fsum([prior, *fishers]) / (1 + len(fishers)), rel=1e-12)


def test_reference_prior_is_converted_to_the_true_fisher():
    assert released_code.reference_prior(5e-18, batch=62) == pytest.approx(1.92e-14, rel=2e-3)
    assert released_code.reference_prior(5e-18, batch=62) == pytest.approx(5e-18 * 62 * 62, rel=1e-12)


@pytest.mark.parametrize(
    ("shape", "fan"),
    [
        ((8, 64), 64),
        ((64, 8), 64),
        ((4, 2, 3, 3), 18),
        ((32, 4, 8, 8), 256),
        ((128, 64, 3, 3), 576),
        ((50, 2, 3, 3), 50),
    ],
)
def test_fan_and_bound_of_a_layer(shape, fan):
    assert released_code.fan(shape) == fan
    assert released_code.weight_bound(fan) ** 2 == pytest.approx(36 / fan)
