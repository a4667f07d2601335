"""``pull`` and ``budget`` inside BLIP's intervals: against online EWC, the Fisher budget, and the equations."""

import pytest
import torch

from blip_rl.core import bits
from blip_rl.methods.attach import attached
from blip_rl.methods.blip import Blip
from blip_rl.methods.ewc_kronecker import EwcKronecker
from blip_rl.methods.ewc_online import EwcOnline
from blip_rl.methods.fisher_budget import FisherBudget
from tests.core.test_budget import projected, spent
from tests.methods.small_tasks import TRUNKS, bounds, copies, inside, learn, three_tasks

trunks = pytest.mark.parametrize("name", TRUNKS)
FREE = {"fisher_prior": 1e6, "quantize_forward": False, "fisher_expectation": "exact"}  # freezes no bit
BOXES = {"first_task_drift": 0.1, "fisher_expectation": "exact"}


def equivalents(name):
    """Pairs of methods that must do the same where no bit is frozen."""
    return {
        "pull, kronecker": (
            Blip(**FREE, pull=20.0, pull_fisher="kronecker", pull_damping=0.5, pull_rank=3),
            EwcKronecker(strength=20.0, fisher_expectation="exact", damping=0.5, rank=3),
        ),
        "pull": (Blip(**FREE, pull=20.0), EwcOnline(strength=20.0, gamma=1.0, fisher_expectation="exact")),
        "budget": (Blip(**FREE, budget=1e-3), FisherBudget(budget=1e-3, fisher_expectation="exact")),
    }[name]


@trunks
@pytest.mark.parametrize("setting", ["pull", "pull, kronecker", "budget"])
def test_without_frozen_bits_blip_equals_the_method_that_has_only_the_setting(name, setting):
    ends = []
    for method in equivalents(setting):
        torch.manual_seed(0)
        trunk = TRUNKS[name][0]()
        figures = [learn(method, trunk, task) for task in three_tasks(name)]
        ends.append((method, copies(trunk), figures))
    (blip, weights, figures), (_, others, other_figures) = ends
    assert not any(frozen.any() for frozen in blip.frozen_bits().values())
    assert all(torch.equal(value, others[parameter]) for parameter, value in weights.items())
    key = "spent" if setting == "budget" else "penalty"
    assert [each[key] for each in figures] == [each[key] for each in other_figures]
    assert figures[1][key] > 0
    torch.manual_seed(0)
    free = TRUNKS[name][0]()
    for task in three_tasks(name):
        learn(Blip(**FREE), free, task)
    assert any(not torch.equal(value, weights[parameter]) for parameter, value in copies(free).items())


@trunks
def test_the_pull_adds_the_gradient_of_the_penalty_written_out(name):
    blip, trunk, tasks = Blip(**BOXES, pull=3.0), TRUNKS[name][0](), three_tasks(name)
    fishers = []
    for task in tasks[:2]:
        learn(blip, trunk, task)
        fishers.append(task.finished(trunk).fisher("exact"))  # consolidation left the weights where they are
    anchor = copies(trunk)
    assert any(frozen.any() for frozen in blip.frozen_bits().values())
    learn_without_consolidating(blip, trunk, tasks[2])
    blip.start_task(trunk)
    named = dict(trunk.named_parameters())
    penalty = sum((0.5 * 3.0 * f[n] * (named[n] - anchor[n]).square()).sum() for f in fishers for n in named)
    expected = dict(zip(named, torch.autograd.grad(penalty, list(named.values())), strict=True))
    for key, parameter in named.items():
        parameter.grad = torch.zeros_like(parameter)
        blip.add_gradient(key, parameter)
        assert expected[key].any()
        torch.testing.assert_close(parameter.grad, expected[key], rtol=1e-4, atol=1e-9)


def learn_without_consolidating(method, trunk, task, steps=10, learning_rate=0.02):
    optimizer = torch.optim.Adam(trunk.parameters(), lr=learning_rate)
    with attached(method, trunk, optimizer):
        for _ in range(steps):
            optimizer.zero_grad()
            task.loss(trunk).backward()
            optimizer.step()


@trunks
@pytest.mark.parametrize("total_bits", [10, 20])
def test_a_step_is_the_ellipsoid_then_the_interval_then_the_grid(name, total_bits):
    """Against bisection on the multiplier in float64, one weight after another."""
    budget = 1e-4
    blip, trunk = Blip(**BOXES, budget=budget, total_bits=total_bits), TRUNKS[name][0]()
    first, *_ = three_tasks(name)
    learn(blip, trunk, first)
    fisher, anchor = first.finished(trunk).fisher("exact"), copies(trunk)
    intervals, remainders = blip.intervals(), {n: p.remainder.clone() for n, p in blip._parameters.items()}
    blip.start_task(trunk)
    with torch.no_grad():
        for parameter in trunk.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    moved = copies(trunk)
    blip.after_step()
    away = torch.cat([(moved[n] + remainders[n] - anchor[n]).flatten() for n in moved])
    flat = torch.cat([fisher[n].flatten() for n in moved])
    assert spent(flat, away) > 10 * budget
    parts = torch.split(projected(flat, away, budget), [value.numel() for value in moved.values()])
    clipped, found, bound = 0, copies(trunk), bounds(trunk)
    for (n, value), part in zip(moved.items(), parts, strict=True):
        target = (anchor[n].double() + part.view_as(value)).float()
        low, high = intervals[n]
        clipped += ((target < low) | (target > high)).sum().item()
        expected = bits.quantize(torch.clamp(target, low, high), total_bits, bound[n])
        # The projections differ by rounding, which may decide between two neighbouring points of the grid.
        assert ((found[n] - expected).abs() <= 1.01 * bound[n] * 2.0**-total_bits + 1e-5).all()
    assert clipped > 0


@trunks
@pytest.mark.parametrize("settings", [{}, {"interval": "half"}, {"quantize_forward": False}, {"pull": 1.0}])
def test_every_step_ends_inside_the_intervals_and_within_the_budget(name, settings):
    used = {}
    for budget in (1e-4, 1e9):
        torch.manual_seed(0)
        blip, trunk, used[budget] = Blip(**BOXES, budget=budget, **settings), TRUNKS[name][0](), 0.0

        def look():
            assert inside(trunk, blip.intervals().values())  # noqa: B023
            if blip.tasks_seen:  # noqa: B023
                used[budget] = max(used[budget], blip._inside.penalty.at(copies(trunk)))  # noqa: B023

        for task in three_tasks(name):
            learn(blip, trunk, task, after_step=look)
    assert used[1e-4] <= 1.01e-4
    assert used[1e9] > 2e-4  # the intervals alone allow more


KRONECKER = {"pull": 1.0, "pull_fisher": "kronecker"}


@pytest.mark.parametrize(
    ("saved", "loaded"),
    [({"pull": 1.0}, {}), ({}, {"budget": 1.0}), ({"pull": 1.0}, KRONECKER), (KRONECKER, {"budget": 1.0})],
)
def test_a_state_saved_with_other_settings_is_refused(saved, loaded):
    blip, trunk = Blip(**BOXES, **saved), TRUNKS["mlp"][0]()
    learn(blip, trunk, three_tasks("mlp")[0])
    other = Blip(**BOXES, **loaded)
    had = r"(with Kronecker factors|with a diagonal Fisher|without Fisher)"
    with pytest.raises(ValueError, match=rf"a state {had}, but this method has pull = [01], pull_fisher = '\w+'"):
        other.load_state(blip.state())


def test_a_state_of_pull_and_budget_before_the_first_task_is_loaded_by_either():
    state = Blip(**BOXES, pull=1.0).state()
    Blip(**BOXES, budget=1.0).load_state(state)
    Blip(**BOXES).load_state(state)


def test_a_budget_with_kronecker_factors_is_refused():
    with pytest.raises(ValueError, match=r"pull_fisher = 'kronecker' with budget = 0\.1: expected one of them"):
        Blip(**BOXES, **KRONECKER, budget=0.1)


def test_kronecker_factors_with_equal_scales_are_refused():
    with pytest.raises(ValueError, match=r"fisher_scale = 'equal': expected fisher_scale = 'own'"):
        Blip(**BOXES, **KRONECKER, fisher_scale="equal")


@trunks
def test_the_kronecker_pull_keeps_weights_inside_the_intervals(name):
    blip, trunk = Blip(**BOXES, **KRONECKER), TRUNKS[name][0]()

    def look():
        assert inside(trunk, blip.intervals().values())

    for task in three_tasks(name):
        learn(blip, trunk, task, after_step=look)
    assert any(frozen.any() for frozen in blip.frozen_bits().values())
