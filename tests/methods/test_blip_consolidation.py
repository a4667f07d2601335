"""The end of a task: Fisher, prior, frozen bits, centres and rounding."""

import warnings

import pytest
import torch
from torch import nn
from torch.distributions import Normal

from blip_rl.core import bits, released_code
from blip_rl.core.fisher import diagonal_fisher
from blip_rl.methods.base import FinishedTask
from blip_rl.methods.blip import Blip
from tests.methods.small_tasks import FEATURES, TRUNKS, Task, bounds, conv, copies, learn, mlp, three_tasks

trunks = pytest.mark.parametrize("name", TRUNKS)


def kept(blip, kind):
    """One kind of saved tensor by parameter name."""
    return {key.rsplit(".", 1)[0]: value for key, value in blip.state().tensors.items() if key.endswith(f".{kind}")}


def exact_fisher(trunk, task):
    return diagonal_fisher(trunk, task.head, task.observations, expectation="exact")


# --- metrics and the prior


def test_metrics_are_the_prior_and_the_mean_over_weights_without_biases():
    blip, trunk = Blip(fisher_prior=1e-7), mlp()
    figures = learn(blip, trunk, three_tasks("mlp")[0])
    frozen = blip.frozen_bits()
    weights = torch.cat([frozen["0.weight"].flatten(), frozen["2.weight"].flatten()])
    mean = pytest.approx(weights.float().mean().item())
    assert (figures["fisher_prior"], figures["mean_frozen_bits"], figures["informed_bits"]) == (1e-7, mean, mean)
    assert {name: share for name, share in figures.items() if name.startswith("without_information/")} == {
        f"without_information/{name}": 0 for name in frozen
    }
    assert set(figures) == {"fisher_prior", "mean_frozen_bits", "informed_bits", "drift"} | {
        f"without_information/{name}" for name in frozen
    }
    assert blip.mean_frozen_bits() == figures["mean_frozen_bits"]
    assert {bits.dtype for bits in frozen.values()} == {torch.uint8}
    assert {name: bits.shape for name, bits in frozen.items()} == {n: p.shape for n, p in trunk.named_parameters()}


@trunks
@pytest.mark.parametrize("gain", ["paper", "reference"])
@pytest.mark.parametrize("target", [2, 4.5, 9])
def test_the_first_task_freezes_the_bits_asked_for(name, gain, target):
    blip, trunk = Blip(first_task_bits=target, gain=gain), TRUNKS[name][0]()
    first, second, _ = three_tasks(name)
    figures = learn(blip, trunk, first)
    assert figures["informed_bits"] == pytest.approx(target, abs=0.05)
    dead = max(blip.state().values["without_information"].values())
    assert (figures["mean_frozen_bits"] < target - 0.05) == (dead > 0.1)
    prior = figures["fisher_prior"]
    assert learn(blip, trunk, second)["fisher_prior"] == prior  # solved for once


def test_the_prior_found_gives_the_same_bits_when_it_is_given():
    found = Blip(first_task_bits=4)
    given_trunk, task = mlp(), three_tasks("mlp")[0]
    found_trunk = mlp()
    found_trunk.load_state_dict(given_trunk.state_dict())
    head = {name: value.clone() for name, value in task.head.state_dict().items()}
    prior = learn(found, found_trunk, task)["fisher_prior"]
    task.head.load_state_dict(head)
    given = Blip(fisher_prior=prior)
    learn(given, given_trunk, task)
    assert all(torch.equal(value, given.frozen_bits()[name]) for name, value in found.frozen_bits().items())


@trunks
@pytest.mark.parametrize("interval", ["paper", "half"])
@pytest.mark.parametrize("target", [1e-3, 0.1])
def test_the_first_task_leaves_the_drift_asked_for(name, interval, target):
    """½ (Σ √F r)² with the Fisher and the intervals that the method really has, weight by weight in float64."""
    blip, trunk = Blip(first_task_drift=target, interval=interval, fisher_expectation="exact"), TRUNKS[name][0]()
    task = three_tasks(name)[0]
    figures = learn(blip, trunk, task)
    fisher, bound, frozen = exact_fisher(trunk, task), bounds(trunk), blip.frozen_bits()
    reach = 0.0
    for parameter, values in fisher.items():
        low, high = (end.double() for end in blip.intervals()[parameter])
        width = (high - low) / 2
        cut = (kept(blip, "centre")[parameter] / bound[parameter]).abs() > 1 - 2.0 ** -frozen[parameter].float()
        width = torch.where(cut & (frozen[parameter] > 0), torch.nan, width)  # at the bound the range cuts it
        full = bits.radius(frozen[parameter], 20, interval, dtype=torch.float64) * bound[parameter]
        reach += (values.double().sqrt() * torch.where(width.isnan(), full, width)).sum().item()
        assert width.isnan().float().mean() < 0.2
    assert figures["drift"] == pytest.approx(0.5 * reach**2, rel=1e-3)
    assert 0.8 * target < figures["drift"] <= target


def test_a_number_of_bits_out_of_reach_warns_with_what_was_reached():
    """One informed weight can freeze a whole number of bits and no other."""
    blip, trunk = Blip(first_task_bits=2.5, fisher_expectation="exact"), nn.Sequential(nn.Linear(5, FEATURES))
    task = Task((5,), seed=1, scale=0.0)
    task.observations[0, 0] = 1.0
    with torch.no_grad():
        task.head.weight[:, 1:] = 0
    with pytest.warns(
        UserWarning, match=r"first_task_bits = 2.5 cannot be reached: .* freezes [23].00 bits on average of"
    ):
        figures = learn(blip, trunk, task, steps=0)
    assert figures["informed_bits"] in (2, 3)


@pytest.mark.parametrize("asked", [{"first_task_bits": 2}, {"first_task_drift": 0.01}], ids=str)
def test_dead_units_do_not_make_the_second_task_freeze_everything(asked):
    """Most weights without information: the prior must stay one that later tasks can live with."""
    blip, trunk = Blip(**asked, fisher_expectation="exact"), mlp()
    first, second, _ = three_tasks("mlp")
    first.observations[:, 1:] = 0
    with torch.no_grad():
        first.head.weight[:, 1:] = 0  # one of eight units is heard
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figures = learn(blip, trunk, first, steps=0)
    assert figures["without_information/2.weight"] == pytest.approx(7 / 8)
    assert figures["without_information/0.weight"] == pytest.approx(4 / 5)
    learn(blip, trunk, second)
    assert blip.mean_frozen_bits() < 12


@pytest.mark.parametrize("asked", [{"first_task_bits": 2}, {"first_task_drift": 0.01}], ids=str)
@pytest.mark.parametrize("rounded", [True, False])
def test_a_task_without_information_freezes_nothing_and_the_next_counts_as_the_first(asked, rounded):
    blip, trunk = Blip(**asked, fisher_expectation="exact", round_after_task=rounded), mlp()
    first, second, _ = three_tasks("mlp")
    with torch.no_grad():
        first.head.weight.zero_()  # whatever the trunk answers, the policy is the same
    before = copies(trunk)
    with pytest.warns(UserWarning, match="no Fisher information about any weight"):
        figures = learn(blip, trunk, first, steps=0)
    assert figures["mean_frozen_bits"] == 0
    assert "fisher_prior" not in figures
    assert (blip.tasks_seen, blip.fisher_prior) == (0, None)
    assert all(torch.allclose(before[name], value, atol=1e-6) for name, value in copies(trunk).items())

    loaded, fresh = Blip(**asked, fisher_expectation="exact", round_after_task=rounded), mlp()
    loaded.load_state(blip.state())
    fresh.load_state_dict(trunk.state_dict())
    assert learn(loaded, fresh, second)["fisher_prior"] > 0
    assert loaded.tasks_seen == 1


@trunks
@pytest.mark.parametrize("scale", ["fan", "uniform"])
def test_the_running_mean_counts_the_prior_as_one_task(name, scale):
    prior = 1e-4
    blip, trunk = Blip(fisher_prior=prior, prior_scale=scale, fisher_expectation="exact"), TRUNKS[name][0]()
    fishers = []
    for task in three_tasks(name):
        learn(blip, trunk, task)
        fishers.append(exact_fisher(trunk, task))
    layer_fans = {n: released_code.fan(tuple(p.shape)) for n, p in trunk.named_parameters() if p.dim() > 1}
    for parameter, mean in kept(blip, "fisher_mean").items():
        layer_fan = layer_fans[parameter.replace("bias", "weight")] if scale == "fan" else 1
        expected = sum([fisher[parameter] for fisher in fishers], torch.full_like(mean, prior * layer_fan)) / 4
        torch.testing.assert_close(mean, expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize(("expectation", "same"), [("exact", True), ("sampled", False)])
def test_sampled_draws_with_the_tasks_generator_and_exact_draws_nothing(expectation, same):
    trunk, task = mlp(), three_tasks("mlp")[0]
    means = {}
    for seed in (0, 1, 0):
        blip = Blip(fisher_prior=1e-6, fisher_expectation=expectation)
        blip.start_task(trunk)
        blip.end_task(task.finished(trunk, seed))
        means.setdefault(seed, []).append(kept(blip, "fisher_mean")["0.weight"])
    assert torch.equal(means[0][0], means[0][1])
    assert torch.equal(means[0][0], means[1][0]) == same


# --- bits and centres


@trunks
@pytest.mark.parametrize("gain", ["paper", "reference"])
@pytest.mark.parametrize("nested", [True, False])
def test_three_tasks_against_the_equations_written_out(name, gain, nested):
    """Eq. 6 to 9 in plain float64 after every task; a gain within 1e-4 of a whole number may round either way."""
    settings = {"gain": gain, "nested": nested, "fisher_expectation": "exact", "fisher_prior": 1e-5}
    blip, trunk = Blip(**settings), TRUNKS[name][0]()
    bound = bounds(trunk)
    frozen = {n: torch.zeros_like(p, dtype=torch.float64) for n, p in trunk.named_parameters()}
    mean = {}
    for t, task in enumerate(three_tasks(name), start=1):
        learn(blip, trunk, task)
        fisher, centre = exact_fisher(trunk, task), kept(blip, "centre")
        for n, parameter in copies(trunk).items():
            layer_fan = released_code.fan(tuple(trunk.get_parameter(n.replace("bias", "weight")).shape))
            f, m = fisher[n].double(), mean.get(n, torch.full_like(frozen[n], 1e-5 * layer_fan))
            gained = 0.5 * torch.log2((t * m + f) / (m * (t if gain == "paper" else t + 1)))
            clear = (gained - gained.round()).abs() > 1e-4
            clear |= gained < -1e-4
            expected = frozen[n] + torch.minimum(gained.ceil().clamp(min=0), 20 - frozen[n])
            actual = blip.frozen_bits()[n].double()
            assert torch.equal(actual[clear], expected[clear])
            frozen[n], mean[n] = actual, (t * m + f) / (t + 1)
            if not nested:
                plain = torch.round(parameter.double() / bound[n] * 2**actual) / 2**actual * bound[n]
                torch.testing.assert_close(centre[n].double(), plain, rtol=1e-6, atol=0)


@trunks
@pytest.mark.parametrize("gain", ["paper", "reference"])
def test_a_weight_without_fisher_information_keeps_its_bits(name, gain):
    """A column of weights behind an observation that is always 0 cannot matter."""
    blip, trunk = Blip(first_task_bits=6, gain=gain), TRUNKS[name][0]()
    for task in three_tasks(name):
        task.observations[:, 0] = 0
        learn(blip, trunk, task)
        first_layer = blip.frozen_bits()["0.weight"]
        assert not first_layer[:, 0].any()
        assert first_layer[:, 1:].any()


@trunks
@pytest.mark.parametrize("rounded", [True, False])
def test_only_rounding_moves_weights_at_the_end_of_a_task(name, rounded):
    blip, trunk = Blip(fisher_prior=1e-3, round_after_task=rounded, nested=False), TRUNKS[name][0]()
    last_seen = {}
    learn(blip, trunk, three_tasks(name)[0], after_step=lambda: last_seen.update(copies(trunk)))
    centre, frozen, now = kept(blip, "centre"), blip.frozen_bits(), copies(trunk)
    assert any((bits == 0).any() for bits in frozen.values())
    for parameter, value in now.items():
        assert torch.equal(value, centre[parameter] if rounded else last_seen[parameter])
        assert not centre[parameter][frozen[parameter] == 0].any()
    assert any(kept(blip, "remainder")[parameter].any() for parameter in now) == (not rounded)


# --- refusals


def test_a_fisher_that_is_not_finite_is_refused_and_changes_nothing():
    blip, trunk, task = Blip(first_task_bits=4), mlp(), three_tasks("mlp")[0]
    learn(blip, trunk, task)
    before = {name: value.clone() for name, value in blip.state().tensors.items()}
    sharp = FinishedTask(
        trunk, lambda y: Normal(y, 1e-30), task.observations, lambda x: x, torch.Generator().manual_seed(0)
    )
    with pytest.raises(FloatingPointError, match=r"Fisher of '.*' is not finite"):
        blip.end_task(sharp)
    assert blip.tasks_seen == 1
    assert all(torch.equal(value, before[name]) for name, value in blip.state().tensors.items())


@pytest.mark.parametrize(
    ("trunk", "message"),
    [
        (nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4)), "parameter '1.weight': the method protects"),
        (nn.Tanh(), "a trunk without parameters"),
    ],
)
def test_trunks_with_other_layers_are_refused(trunk, message):
    with pytest.raises(TypeError, match=message):
        Blip(first_task_bits=4).start_task(trunk)


def test_channels_last_state_stays_channels_last():
    blip, trunk = Blip(first_task_bits=4), conv()
    learn(blip, trunk, three_tasks("conv")[0], steps=3)
    for tensor in (blip.frozen_bits()["0.weight"], *blip.intervals()["0.weight"]):
        assert tensor.is_contiguous(memory_format=torch.channels_last)
