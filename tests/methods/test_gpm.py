"""GPM and SGP: steps orthogonal to the inputs of earlier tasks, or scaled along them."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from safetensors.torch import load, save
from torch import nn

from blip_rl.core.subspace import layer_inputs
from blip_rl.methods.attach import attached
from blip_rl.methods.base import MethodState
from blip_rl.methods.finetune import Finetune
from blip_rl.methods.gpm import Gpm
from blip_rl.methods.sgp import Sgp
from tests.methods.small_tasks import TRUNKS, Task, copies, learn, mlp

trunks = pytest.mark.parametrize("name", TRUNKS)
methods = pytest.mark.parametrize("method", [Gpm, Sgp])


def narrow_tasks(name, count=3):
    """Tasks whose observations have few directions, so that others are left; each has its own."""
    tasks = []
    for seed in range(count):
        task = Task(TRUNKS[name][1], seed)
        generator = torch.Generator().manual_seed(100 + seed)
        if name == "mlp":
            task.observations = torch.randn(64, 1, generator=generator) * torch.randn(5, generator=generator)
        else:  # tiles as wide as the stride: every patch of an image is the same
            tile = torch.randn(2, 2, 2, generator=generator).repeat(1, 5, 5)[:, :9, :9]
            task.observations = torch.randn(64, 1, 1, 1, generator=generator) * tile
        tasks.append(task)
    return tasks


def bases(method):
    return {
        key.removesuffix(".basis"): t.double() for key, t in method.state().tensors.items() if key.endswith(".basis")
    }


def scales(method):
    suffix = ".importance"
    return {k.removesuffix(suffix): t.double() for k, t in method.state().tensors.items() if k.endswith(suffix)}


def along(change, basis):
    """The largest part of a change along one direction of a basis, as a share of the change."""
    if not basis.shape[1] or not change.any():
        return 0.0
    flat = change.double().reshape(len(change), -1)
    return ((flat @ basis).norm(dim=0).max() / flat.norm()).item()


def steps_along(method, trunk, task, optimizer_class=torch.optim.Adam):
    """Largest part of any single optimizer step along any stored direction, and whether every layer moved."""
    stored, optimizer = bases(method), optimizer_class([*trunk.parameters(), *task.head.parameters()], lr=0.02)
    start, worst = copies(trunk), 0.0
    with attached(method, trunk, optimizer):
        for _ in range(15):
            before = copies(trunk)
            optimizer.zero_grad()
            task.loss(trunk).backward()
            optimizer.step()
            worst = max(worst, *(along(copies(trunk)[n] - before[n], basis) for n, basis in stored.items()))
    method.end_task(task.finished(trunk))
    return worst, all(not torch.equal(copies(trunk)[n], start[n]) for n in stored)


@trunks
@pytest.mark.parametrize("project", ["both", "step"])
def test_every_step_is_orthogonal_to_every_stored_direction(name, project):
    gpm, trunk, tasks = Gpm(threshold=0.9, project=project), TRUNKS[name][0](), narrow_tasks(name)
    learn(gpm, trunk, tasks[0])
    for task in tasks[1:]:
        assert all(0 < basis.shape[1] < len(basis) for basis in bases(gpm).values())
        worst, moved = steps_along(gpm, trunk, task)
        assert worst < 1e-5
        assert moved


@trunks
def test_projected_gradient_suffices_for_sgd_but_not_for_adam(name):
    """Why the step is projected: the gradient alone is enough for SGD, but not for Adam."""
    for optimizer, limits in ((torch.optim.SGD, (0, 1e-3)), (torch.optim.Adam, (1e-2, 1))):
        gpm, trunk, tasks = Gpm(threshold=0.9, project="gradient"), TRUNKS[name][0](), narrow_tasks(name)
        learn(gpm, trunk, tasks[0])
        worst, _ = steps_along(gpm, trunk, tasks[1], optimizer)
        assert limits[0] <= worst <= limits[1]


@trunks
def test_the_first_task_hardly_changes_while_fine_tuning_forgets_it(name):
    changes = {}
    for method in (Gpm(threshold=0.9999), Finetune()):
        torch.manual_seed(0)
        trunk, tasks = TRUNKS[name][0](), narrow_tasks(name)
        learn(method, trunk, tasks[0])
        before = trunk(tasks[0].observations).detach()
        losses = []
        for task in tasks[1:]:
            losses.append(task.loss(trunk).item())
            learn(method, trunk, task)
            losses.append(task.loss(trunk).item())
        assert losses[1] < losses[0]
        assert losses[3] < losses[2]
        changes[type(method)] = (trunk(tasks[0].observations) - before).norm() / before.norm()
    assert changes[Gpm] < 0.02
    assert changes[Finetune] > 0.2


@methods
@pytest.mark.parametrize("project", ["gradient", "step", "both"])
def test_biases_are_frozen_with_an_optimizer_kept_from_the_first_task(method, project):
    """A plain stable-baselines3 model keeps its Adam from task to task."""
    made, trunk, (first, second) = method(project=project), mlp(), narrow_tasks("mlp", 2)
    optimizer = torch.optim.Adam([*trunk.parameters(), *first.head.parameters()], lr=0.02)
    for task in (first, second):
        before, stored = copies(trunk), bases(made)
        with attached(made, trunk, optimizer):
            for _ in range(5):
                optimizer.zero_grad()
                task.loss(trunk).backward()
                optimizer.step()
        for key, value in copies(trunk).items():
            assert torch.equal(value, before[key]) == (task is second and key.endswith("bias"))
            if method is Gpm and key in stored and project != "gradient":
                assert along(value - before[key], stored[key]) < 1e-5
        made.end_task(task.finished(trunk))


def test_basis_holds_the_share_of_energy_set_by_the_threshold():
    gpm, trunk, tasks = Gpm(threshold=0.97), TRUNKS["conv"][0](), [Task((2, 9, 9), seed) for seed in range(3)]
    for task in tasks:
        held_before = bases(gpm)
        figures = learn(gpm, trunk, task)
        for key, inputs in layer_inputs(trunk, task.observations, lambda x: x).items():
            basis, energy = bases(gpm)[key], inputs.square().sum()
            assert (inputs @ basis).square().sum() >= 0.97 * energy * (1 - 1e-6)
            if basis.shape[1] > held_before.get(key, basis[:, :0]).shape[1]:
                assert (inputs @ basis[:, :-1]).square().sum() < 0.97 * energy
            torch.testing.assert_close(basis.T @ basis, torch.eye(basis.shape[1]).double(), rtol=0, atol=1e-6)
            assert figures[f"held/{key.removesuffix('.weight')}"] == basis.shape[1] / len(basis)


@pytest.mark.parametrize("project", ["gradient", "step", "both"])
def test_scaled_projection_equals_the_formula(project):
    """Plain SGD with lr: ΔW = −lr · G (I − M Λ Mᵀ), Λ summed up over two tasks and at most 1; squared for both."""
    sgp, trunk, (first, second, third) = Sgp(threshold=0.9, scale=3.0, project=project), mlp(), narrow_tasks("mlp")
    wanted = {}
    for task in (first, second):
        learn(sgp, trunk, task)
        inputs = layer_inputs(trunk, task.observations, lambda x: x)
        for key, basis in bases(sgp).items():
            sigma = (inputs[key] @ basis).norm(dim=0)
            now = 4 * sigma / (3 * sigma + sigma.max())
            earlier = wanted.get(key, now[:0])
            wanted[key] = (torch.cat([earlier, torch.zeros(len(now) - len(earlier)).double()]) + now).clamp(max=1)
            torch.testing.assert_close(scales(sgp)[key], wanted[key], rtol=1e-5, atol=1e-6)
    assert any((scale < 1).any() for scale in wanted.values())
    before, stored = copies(trunk), bases(sgp)
    trunk.zero_grad()
    third.loss(trunk).backward()
    gradients = {key: p.grad.double().clone() for key, p in trunk.named_parameters()}
    optimizer = torch.optim.SGD(trunk.parameters(), lr=0.1)
    with attached(sgp, trunk, optimizer):
        optimizer.zero_grad()
        third.loss(trunk).backward()
        optimizer.step()
    for key, basis in stored.items():
        scaled = torch.eye(len(basis)).double() - basis @ torch.diag(wanted[key]) @ basis.T
        applied = scaled @ scaled if project == "both" else scaled
        step = -0.1 * gradients[key] @ applied
        torch.testing.assert_close((copies(trunk)[key] - before[key]).double(), step, rtol=1e-3, atol=1e-7)


def test_sgp_with_a_large_scale_equals_gpm():
    ends = []
    for method in (Gpm(project="step"), Sgp(scale=1e9)):
        torch.manual_seed(0)
        trunk = mlp()
        for task in narrow_tasks("mlp"):
            learn(method, trunk, task)
        ends.append(copies(trunk))
    for key, value in ends[0].items():
        torch.testing.assert_close(value, ends[1][key], rtol=1e-4, atol=1e-5)


@methods
def test_layers_without_any_input_have_empty_bases_that_round_trip(method):
    made, trunk, (first, second) = method(), TRUNKS["conv"][0](), narrow_tasks("conv", 2)
    first.observations = torch.zeros_like(first.observations)
    learn(made, trunk, first, steps=1)
    tensors = load(save(made.state().tensors))
    assert tensors["0.weight.basis"].shape == (18, 0)
    loaded = method()
    loaded.load_state(MethodState(tensors))
    learn(loaded, trunk, second, steps=2)
    assert bases(loaded)["0.weight"].shape[1] > 0


def test_a_damaged_state_is_refused():
    """One layer's importances gone, or a column's."""
    made, trunk = Sgp(), mlp()
    learn(made, trunk, narrow_tasks("mlp", 1)[0], steps=2)
    tensors = made.state().tensors
    key = "2.weight.importance"
    short = {key: tensors[key][1:]}
    for damaged, message in (({}, f"no '{key}'"), (short, f"'{key}' is .*, expected")):
        loaded = Sgp()
        loaded.load_state(MethodState({name: t for name, t in tensors.items() if name != key} | damaged))
        with pytest.raises(ValueError, match=message):
            loaded.start_task(trunk)


@methods
def test_a_trunk_of_other_layers_is_refused_before_training(method):
    with pytest.raises(TypeError, match=r"parameter '1\.weight'"):
        method().start_task(nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2)))


@pytest.mark.parametrize("modulated", [True, False])
def test_inputs_of_the_real_trunk_with_and_without_modulation(modulated):
    """The trunk folds a modulation into a convolution's weights and goes around the layer, unless a hook watches it."""
    from blip_rl.agent_config import ImageTrunkConfig, TrunkConfig, VectorTrunkConfig
    from blip_rl.learner.trunk import Modulation, Trunk

    config = TrunkConfig(
        image=ImageTrunkConfig(conv=((3, 4, 2), (4, 3, 1)), hidden=(6,), activation="relu"),
        vector=VectorTrunkConfig(hidden=(4,), activation="tanh"),
        task_modulation=modulated,
    )
    trunk = Trunk(spaces.Box(0, 255, (2, 16, 16), np.uint8), config)
    modulations = [Modulation(units) for units in trunk.layer_outputs] if modulated else []
    for modulation in modulations:
        nn.init.normal_(modulation.scale)
        nn.init.normal_(modulation.shift)
    trunk.modulate(modulations)
    observations = torch.randint(0, 256, (50, 2, 16, 16), dtype=torch.uint8)
    found = layer_inputs(trunk, observations, lambda x: x.float() / 255)

    x, change = observations.float() / 255, [m if modulated else (lambda y: y) for m in modulations or [None] * 3]
    for index, key in enumerate(("conv1", "conv2", "fc1")):
        layer = trunk.get_submodule(key)
        x = x.flatten(1) if key == "fc1" else x
        rows = x if key == "fc1" else nn.functional.unfold(x, layer.kernel_size, stride=layer.stride).mT.flatten(0, 1)
        wanted = rows.detach().double().T @ rows.detach().double()
        torch.testing.assert_close(found[f"{key}.weight"].T @ found[f"{key}.weight"], wanted, rtol=1e-4, atol=1e-3)
        x = change[index](layer(x)).relu()
