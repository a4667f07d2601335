"""Shrink and perturb: θ ← (1 − share) θ + share · θ_new, at the start of later tasks or after every step."""

import pytest
import torch
from torch import nn

from blip_rl.core.perturbation import shrink_and_perturb_
from blip_rl.methods.attach import attached
from blip_rl.methods.base import MethodState
from blip_rl.methods.finetune import Finetune
from tests.methods.small_tasks import TRUNKS, copies, learn, three_tasks

trunks = pytest.mark.parametrize("name", TRUNKS)


def expected_by_entry(weights, share, seed):
    """The equation for one entry after another, with the same draws."""
    torch.manual_seed(seed)
    found = {}
    for name, value in weights.items():
        new = torch.randn_like(value) if value.dim() > 1 else torch.zeros_like(value)
        inputs = value[0].numel() if value.dim() > 1 else 1
        scale = (2 / max(value.shape[0], inputs)) ** 0.5
        entries = [(1 - share) * v + share * scale * n for v, n in zip(value.ravel(), new.ravel(), strict=True)]
        found[name] = torch.stack(entries).view(value.shape)
    return found


@trunks
def test_weights_move_towards_new_ones_and_biases_towards_zero(name):
    trunk = TRUNKS[name][0]()
    expected = expected_by_entry(copies(trunk), 0.3, seed=5)
    torch.manual_seed(5)
    shrink_and_perturb_(trunk.parameters(), 0.3)
    for key, value in copies(trunk).items():
        torch.testing.assert_close(value, expected[key])


@pytest.mark.parametrize("shape", [(128, 64), (32, 16, 3, 3)])
def test_new_weights_have_the_variance_of_the_initialisation(shape):
    orthogonal, new = torch.empty(shape), nn.Parameter(torch.ones(shape))
    nn.init.orthogonal_(orthogonal, gain=2**0.5)
    shrink_and_perturb_([new], 1.0)
    assert new.std().item() == pytest.approx(orthogonal.std().item(), rel=0.05)
    assert abs(new.mean().item()) < 0.01


@trunks
def test_every_task_but_the_first_starts_from_a_perturbed_trunk(name):
    method, trunk, tasks = Finetune(shrink_and_perturb=0.3), TRUNKS[name][0](), three_tasks(name)
    for number, task in enumerate(tasks):
        before = copies(trunk)
        expected = expected_by_entry(before, 0.3, seed=number) if number else before
        torch.manual_seed(number)
        method.start_task(trunk)
        for key, value in copies(trunk).items():
            torch.testing.assert_close(value, expected[key])
        method.resume_task(trunk)  # a second time would perturb what has been learned since
        for key, value in copies(trunk).items():
            torch.testing.assert_close(value, expected[key])
        method.end_task(task.finished(trunk))


def test_every_step_ends_with_a_soft_perturbation_from_the_first_task_on():
    method, trunk = Finetune(soft_shrink_and_perturb=1e-3), TRUNKS["mlp"][0]()
    optimizer = torch.optim.SGD(trunk.parameters(), lr=0.0)
    with attached(method, trunk, optimizer):
        for step in range(3):
            expected = expected_by_entry(copies(trunk), 1e-3, seed=step)
            three_tasks("mlp")[0].loss(trunk).backward()
            torch.manual_seed(step)
            optimizer.step()
            for key, value in copies(trunk).items():
                torch.testing.assert_close(value, expected[key])


def test_updates_are_captured_only_without_draws():
    assert Finetune().capturable
    assert Finetune(shrink_and_perturb=0.5).capturable
    assert not Finetune(soft_shrink_and_perturb=1e-6).capturable


def test_a_state_of_other_settings_is_refused():
    method, trunk = Finetune(shrink_and_perturb=0.5), TRUNKS["mlp"][0]()
    learn(method, trunk, three_tasks("mlp")[0], steps=1)
    with pytest.raises(ValueError, match="Finetune keeps no state"):
        Finetune().load_state(method.state())
    with pytest.raises(ValueError, match=r"shrink_and_perturb = 0\.5: expected the method and the settings"):
        method.load_state(MethodState())


def test_a_shared_actor_is_not_perturbed():
    """It is initialised with a gain of 0.01; its critic, which is no layer of the trunk, is not perturbed either."""
    trunk = nn.Sequential()
    trunk.add_module("fc1", nn.Linear(4, 8))
    trunk.add_module("actor", nn.Linear(8, 2))
    before, method = copies(trunk), Finetune(shrink_and_perturb=0.5, soft_shrink_and_perturb=0.1)
    method.tasks_seen = 1
    method.start_task(trunk)
    method.after_step()
    after = copies(trunk)
    assert [name for name in before if torch.equal(before[name], after[name])] == ["actor.weight", "actor.bias"]
