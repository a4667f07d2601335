"""While tasks are learned: every parameter in its interval and on the grid; what intervals keep of the bits."""

import warnings
from itertools import pairwise

import pytest
import torch

from blip_rl.core import bits
from blip_rl.methods.blip import Blip
from tests.methods.small_tasks import TRUNKS, bounds, copies, inside, learn, mlp, on_grid, three_tasks

trunks = pytest.mark.parametrize("name", TRUNKS)
VARIANTS = {
    "default": {"first_task_bits": 5},
    "paper": {"fisher_prior": 1e-6, "gain": "paper", "nested": False},
    "reference": {"fisher_prior": 1e-6, "nested": False, "round_after_task": True},
    "unit bound": {"first_task_bits": 5, "weight_bound": "unit", "prior_scale": "uniform"},
    "few bits": {"first_task_bits": 2, "total_bits": 6},
    "half": {"first_task_bits": 3, "interval": "half"},
    "half, few bits": {"first_task_drift": 1.0, "interval": "half", "total_bits": 8},
}
variants = pytest.mark.parametrize("settings", VARIANTS.values(), ids=VARIANTS.keys())


def test_the_tasks_are_learned_at_all():
    """What follows is worth something only if training moves the trunk."""
    trunk, (task, *_) = mlp(), three_tasks("mlp")
    before = task.loss(trunk).item(), copies(trunk)
    learn(Blip(first_task_bits=5), trunk, task, steps=60)
    assert task.loss(trunk).item() < 0.5 * before[0]
    assert all((before[1][name] != value).float().mean() > 0.9 for name, value in copies(trunk).items())


@trunks
@variants
def test_every_step_ends_inside_the_intervals_and_on_the_grid(name, settings):
    blip, trunk = Blip(**settings), TRUNKS[name][0]()
    looks, slack = 0, 0.0

    def look():
        nonlocal looks
        looks += 1
        bound = bounds(trunk)
        ends = {n: (low - slack * bound[n], high + slack * bound[n]) for n, (low, high) in blip.intervals().items()}
        assert inside(trunk, ends.values())
        if settings.get("weight_bound") != "unit":
            assert on_grid(trunk, blip.total_bits)

    for task in three_tasks(name):
        learn(blip, trunk, task, after_step=look)
    assert looks == 3 * 26
    if settings.get("interval") == "half":
        slack = 1.5 * 2.0**-blip.total_bits  # a weight on a tie moves one step inside when the next task begins
    look()  # after the last consolidation, which is when a checkpoint is written


def changed_bits(weights, stages, bound):
    """How many weights have other first bits than at one of the stages; each has weights and their frozen bits."""
    return sum(
        (bits.quantize(weights[n], frozen[n], bound[n]) != bits.quantize(then[n], frozen[n], bound[n])).sum().item()
        for then, frozen in stages
        for n in weights
    )


@trunks
@pytest.mark.parametrize("quantize_forward", [True, False])
@pytest.mark.parametrize("total_bits", [6, 20])
def test_with_half_intervals_the_first_bits_of_every_task_stay_for_good(name, quantize_forward, total_bits):
    settings = {"first_task_bits": 3, "total_bits": total_bits, "quantize_forward": quantize_forward}
    changed = {}
    for interval in ("paper", "half"):
        blip, trunk = Blip(**settings, interval=interval), TRUNKS[name][0]()
        bound, stages, changed[interval] = bounds(trunk), [], 0
        for task in [*three_tasks(name), *three_tasks(name)]:
            learn(blip, trunk, task, steps=15, learning_rate=0.05)
            changed[interval] += changed_bits(copies(trunk), stages, bound)
            stages.append((copies(trunk), blip.frozen_bits()))
    assert changed["half"] == 0
    assert changed["paper"] > 50


@trunks
@pytest.mark.parametrize("quantize_forward", [True, False])
def test_nested_weights_stay_inside_every_earlier_interval(name, quantize_forward):
    blip, trunk = Blip(first_task_bits=4, quantize_forward=quantize_forward), TRUNKS[name][0]()
    earlier = []

    def look():
        assert all(inside(trunk, intervals) for intervals in earlier)

    for task in three_tasks(name):
        learn(blip, trunk, task, after_step=look)
        earlier.append(list(blip.intervals().values()))
    for outer, inner in pairwise(earlier):
        for (low, high), (new_low, new_high) in zip(outer, inner, strict=True):
            assert ((low <= new_low) & (new_high <= high)).all()


@trunks
@variants
def test_a_weight_with_all_bits_frozen_cannot_move(name, settings):
    fan = 1 if settings.get("prior_scale", "fan") == "fan" else 20
    prior = fan * 6e-3 * 4.0 ** -settings.get("total_bits", 20)  # freezes some weights to the last bit, and some not
    asked = ("first_task_bits", "first_task_drift")
    settings = {key: value for key, value in settings.items() if key not in asked} | {"fisher_prior": prior}
    blip, trunk = Blip(**settings), TRUNKS[name][0]()
    first, second, _ = three_tasks(name)
    learn(blip, trunk, first)
    frozen = {parameter: count == blip.total_bits for parameter, count in blip.frozen_bits().items()}
    before = copies(trunk)
    learn(blip, trunk, second, learning_rate=0.1)
    after = copies(trunk)
    share = sum(mask.sum() for mask in frozen.values()) / sum(mask.numel() for mask in frozen.values())
    assert 0.02 < share < 0.98
    assert any((after[parameter] != before[parameter]).any() for parameter in after)
    for parameter, mask in frozen.items():
        assert torch.equal(after[parameter][mask], before[parameter][mask])


@pytest.mark.parametrize("nested", [True, False])
def test_an_all_frozen_trunk_leaves_an_old_task_exactly_as_it_was(nested):
    blip, trunk = Blip(fisher_prior=1e-30, nested=nested, fisher_expectation="exact"), mlp()
    first, second, third = three_tasks("mlp")
    learn(blip, trunk, first)
    assert all((bits == 20).all() for bits in blip.frozen_bits().values())
    before, actions = copies(trunk), first.greedy_actions(trunk)
    losses = second.loss(trunk).item()
    for task in (second, third):
        learn(blip, trunk, task, learning_rate=0.1)
    assert all(torch.equal(value, before[name]) for name, value in copies(trunk).items())
    assert torch.equal(first.greedy_actions(trunk), actions)
    assert len(actions.unique()) > 1
    assert second.loss(trunk).item() < losses  # the heads went on learning


def test_fine_tuning_the_same_tasks_changes_the_old_ones_actions():
    blip, trunk = Blip(fisher_prior=1e6), mlp()  # a prior this large freezes nothing
    first, second, _ = three_tasks("mlp")
    learn(blip, trunk, first)
    assert blip.mean_frozen_bits() == 0
    actions = first.greedy_actions(trunk)
    learn(blip, trunk, second, learning_rate=0.1)
    assert not torch.equal(first.greedy_actions(trunk), actions)


def test_weights_that_start_out_of_bounds_are_brought_inside():
    trunk = mlp()
    with torch.no_grad():
        for parameter in trunk.parameters():
            parameter.mul_(100)
    blip = Blip(first_task_bits=3)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        blip.start_task(trunk)
    assert any("0.weight: " in str(w.message) and "are clipped" in str(w.message) for w in caught)
    assert inside(trunk, blip.intervals().values())
    assert on_grid(trunk, 20)


@pytest.mark.filterwarnings("ignore:.*are clipped")
def test_rounding_keeps_weights_at_their_bound_inside_the_limits():
    """The centre of a weight at its bound is ±b, one grid step outside; the weight itself must not go there."""
    trunk, (task, *_) = mlp(), three_tasks("mlp")
    with torch.no_grad():
        trunk[2].weight.copy_(torch.where(trunk[2].weight > 0, 100.0, -100.0))
    blip = Blip(fisher_prior=1e-3, gain="paper", nested=False, round_after_task=True)
    learn(blip, trunk, task, steps=0)
    assert (blip.frozen_bits()["2.weight"] > 0).any()
    assert inside(trunk, blip.intervals().values())
