"""Subspaces of a layer's inputs, against loops over patches and a plain singular value decomposition."""

import math

import pytest
import torch
from torch import nn

from blip_rl.core.subspace import Guard, accumulated, extended, importance, layer_inputs, new_directions, remove_


def inputs_of(samples, inputs, decay=0.7, seed=0):
    """Rows whose directions carry less and less."""
    generator = torch.Generator().manual_seed(seed)
    strength = decay ** torch.arange(inputs, dtype=torch.float64)
    rotation = torch.linalg.qr(torch.randn(inputs, inputs, generator=generator, dtype=torch.float64)).Q
    return torch.randn(samples, inputs, generator=generator, dtype=torch.float64) * strength @ rotation


def projector(basis):
    basis = basis.double()
    return basis @ basis.T


def by_svd(rows, basis, threshold):
    """The obvious way: projector of the basis and the fewest right singular vectors of what it misses."""
    missed = rows - rows @ projector(basis)
    _, sigma, directions = torch.linalg.svd(missed)
    held, chosen = projector(basis), []
    while (rows @ held).square().sum() < threshold * rows.square().sum():
        chosen.append(directions[len(chosen)])
        held = projector(basis) + sum(torch.outer(v, v) for v in chosen)
    return held, len(chosen), sigma[: len(chosen)]


def patches_by_loop(layer, x):
    """Every patch under the kernel, one at a time, as rows in the order of the flattened weight."""
    (kh, kw), (sh, sw), (ph, pw), (dh, dw) = layer.kernel_size, layer.stride, layer.padding, layer.dilation
    x = torch.nn.functional.pad(x, (pw, pw, ph, ph))
    rows, per_group = [], x.shape[1] // layer.groups
    for image in x:
        for top in range(0, image.shape[1] - dh * (kh - 1), sh):
            for left in range(0, image.shape[2] - dw * (kw - 1), sw):
                patch = image[:, top : top + dh * (kh - 1) + 1 : dh, left : left + dw * (kw - 1) + 1 : dw]
                rows += [group.flatten() for group in patch.split(per_group)]
    return torch.stack(rows)


CONVOLUTIONS = {
    "plain": {"kernel_size": 3},
    "stride": {"kernel_size": 3, "stride": 2},
    "uneven": {"kernel_size": (2, 3), "stride": (1, 2)},
    "padding": {"kernel_size": 3, "padding": (1, 2)},
    "dilation": {"kernel_size": 2, "dilation": 2},
    "groups": {"kernel_size": 3, "groups": 2, "stride": 2},
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.parametrize("samples", [1, 5])  # fewer patches than numbers in one, and more
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_convolutions_inputs_are_its_patches(name, samples, layout):
    layer = nn.Conv2d(4, 6, **CONVOLUTIONS[name])
    x = torch.randn(samples, 4, 7, 8).contiguous(memory_format=layout)
    rows = patches_by_loop(layer, x)
    # The patches are the right ones if the weight makes the outputs of them.
    if layer.groups == 1:
        outputs = rows @ layer.weight.flatten(1).T + layer.bias
        torch.testing.assert_close(outputs.view(samples, -1, 6).transpose(1, 2), layer(x).flatten(2))
    found = layer_inputs(layer, x, lambda x: x, chunk_samples=2)["weight"]
    assert found.dtype == torch.float64
    assert found.shape[1] == layer.weight[0].numel()
    assert len(found) <= max(found.shape[1], len(rows))
    torch.testing.assert_close(found.T @ found, rows.double().T @ rows.double(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("samples", [3, 40])
def test_a_linear_layers_inputs_are_kept_or_summed(samples):
    layer, x = nn.Linear(7, 2), torch.randn(samples, 7)
    found = layer_inputs(layer, x, lambda x: 2 * x, chunk_samples=4)["weight"]
    assert found.shape == (min(samples, 7), 7)
    torch.testing.assert_close(found.T @ found, 4 * x.double().T @ x.double())


def test_inputs_of_deeper_layers_are_what_reaches_them_and_hooks_go_away():
    trunk = nn.Sequential(nn.Conv2d(2, 3, 2), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(12, 4), nn.Tanh())
    x = torch.randn(30, 2, 3, 3)
    found = layer_inputs(trunk, x, lambda x: x)
    assert list(found) == ["0.weight", "3.weight"]
    deeper = trunk[0](x).relu().flatten(1).detach().double()
    torch.testing.assert_close(found["3.weight"].T @ found["3.weight"], deeper.T @ deeper)
    assert not any(module._forward_hooks for module in trunk.modules())
    with pytest.raises(RuntimeError):
        layer_inputs(trunk, torch.randn(2, 5, 3, 3), lambda x: x)
    assert not any(module._forward_hooks for module in trunk.modules())


def test_a_layer_used_twice_brings_the_inputs_of_both_uses():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, x):
            return self.layer(self.layer(x))

    trunk, x = Twice(), torch.randn(9, 3)
    rows = torch.cat([x, trunk.layer(x)]).detach().double()
    found = layer_inputs(trunk, x, lambda x: x)["layer.weight"]
    torch.testing.assert_close(found.T @ found, rows.T @ rows)


def test_unsupported_inputs_are_refused():
    with pytest.raises(ValueError, match="0 observations"):
        layer_inputs(nn.Linear(3, 2), torch.zeros(0, 3), lambda x: x)
    with pytest.raises(FloatingPointError, match=r"layer of 'weight' is not finite"):
        layer_inputs(nn.Linear(3, 2), torch.full((2, 3), math.nan), lambda x: x)
    with pytest.raises(TypeError, match=r"parameter '1\.weight'.*nn\.Linear and nn\.Conv2d"):
        layer_inputs(nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2)), torch.zeros(1, 3), lambda x: x)
    with pytest.raises(TypeError, match="a trunk without parameters"):
        layer_inputs(nn.Tanh(), torch.zeros(1, 3), lambda x: x)


@pytest.mark.parametrize("threshold", [0.5, 0.9, 0.995, 0.99999])
@pytest.mark.parametrize("samples", [4, 12, 60])
def test_new_directions_equal_those_of_a_singular_value_decomposition(samples, threshold):
    basis = torch.zeros(12, 0)
    for seed in range(3):
        rows = inputs_of(samples, 12, seed=seed)
        wanted, count, _ = by_svd(rows, basis, threshold)
        fresh = new_directions(rows, basis, threshold)
        assert fresh.shape == (12, count)
        assert fresh.dtype == torch.float32
        basis = extended(basis, fresh)
        torch.testing.assert_close(projector(basis), wanted, rtol=0, atol=2e-6)
        torch.testing.assert_close(basis.T @ basis, torch.eye(basis.shape[1]), rtol=0, atol=2e-6)
        assert basis.is_contiguous()


def test_no_directions_are_added_if_the_basis_holds_all_inputs_or_inputs_are_zero():
    rows = inputs_of(50, 10)
    basis = new_directions(rows, torch.zeros(10, 0), 0.99)
    assert new_directions(rows, basis, 0.98).shape == (10, 0)
    assert new_directions(torch.zeros(5, 10).double(), torch.zeros(10, 0), 0.99).shape == (10, 0)
    assert new_directions(rows, torch.eye(10), 0.99).shape == (10, 0)


def test_weak_new_directions_are_orthogonal_to_a_basis_that_holds_nearly_all():
    """What rounding left of the strong ones is as large as the weak ones, and mixed with them in every row."""
    generator = torch.Generator().manual_seed(0)
    basis = new_directions(inputs_of(50, 40, decay=0.5), torch.zeros(40, 0), 0.999)
    strong = torch.randn(50, basis.shape[1], generator=generator, dtype=torch.float64) @ basis.double().T
    rows = 1e6 * strong + 0.1 * torch.randn(50, 40, generator=generator, dtype=torch.float64)
    fresh = new_directions(rows, basis, 1 - 1e-14)
    assert fresh.shape[1] > 0
    assert (basis.T @ fresh).abs().max() < 1e-6


@pytest.mark.parametrize("scale", [0.0, 1.0, 25.0])
def test_importance_of_new_directions_comes_from_their_singular_values(scale):
    rows = inputs_of(50, 10)
    basis = new_directions(rows, torch.zeros(10, 0), 0.99)
    sigma = torch.linalg.svdvals(rows)[: basis.shape[1]]
    wanted = [(scale + 1) * s / (scale * s + max(sigma.tolist())) for s in sigma.tolist()]
    found = importance(rows, basis, scale)
    assert found.tolist() == pytest.approx(wanted, rel=1e-5)
    assert found[0] == pytest.approx(1.0)
    assert (found.diff() <= 0).all()


def test_importance_for_earlier_directions_as_the_authors_compute_it():
    """They take it from the decomposition of what the basis holds of the new inputs."""
    rows, basis = inputs_of(50, 10), new_directions(inputs_of(50, 10, seed=1), torch.zeros(10, 0), 0.99)
    _, sigma, directions = torch.linalg.svd(rows @ projector(basis), full_matrices=False)
    energies = (basis.double().T @ directions.T).square() @ sigma.square()
    wanted = [26 * s / (25 * s + energies.max().sqrt().item()) for s in energies.sqrt().tolist()]
    assert importance(rows, basis, 25.0).tolist() == pytest.approx(wanted, rel=1e-4)


def test_importance_without_directions_or_inputs():
    assert importance(inputs_of(5, 4), torch.zeros(4, 0), 25.0).shape == (0,)
    assert importance(torch.zeros(5, 4).double(), torch.eye(4), 25.0).tolist() == [0, 0, 0, 0]


def test_importances_add_up_to_one_at_most():
    assert accumulated(torch.tensor([0.2, 0.7]), torch.tensor([0.5, 0.6, 0.3])).tolist() == pytest.approx([0.7, 1, 0.3])
    assert accumulated(torch.zeros(0), torch.tensor([0.5])).tolist() == [0.5]


@pytest.mark.parametrize("scales", [None, torch.tensor([1.0, 0.5, 0.25])])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_remove_subtracts_the_projection_onto_the_basis(scales, layout):
    change = torch.randn(5, 2, 3, 3).contiguous(memory_format=layout)
    basis = torch.linalg.qr(torch.randn(18, 3)).Q
    diagonal = torch.diag(torch.ones(3) if scales is None else scales)
    wanted = change.reshape(5, 18) @ (torch.eye(18) - basis @ diagonal @ basis.T)
    strides = change.stride()
    remove_(change, basis, scales)
    torch.testing.assert_close(change.reshape(5, 18), wanted)
    assert change.stride() == strides


@pytest.mark.parametrize("projected", ["gradient", "step", "both"])
def test_guard_projects_gradient_step_or_both(projected):
    layer, basis = nn.Linear(4, 3), torch.linalg.qr(torch.randn(4, 2)).Q
    before, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
    guard = Guard(layer, {"weight": basis}, {"weight": torch.tensor([0.5, 0.5])}, projected)
    layer.weight.grad, layer.bias.grad = torch.randn(3, 4), torch.ones(3)
    scaled = torch.eye(4) - 0.5 * basis @ basis.T
    gradient = layer.weight.grad @ (scaled if projected != "step" else torch.eye(4))
    guard.gradient("weight", layer.weight)
    guard.gradient("bias", layer.bias)
    torch.testing.assert_close(layer.weight.grad, gradient)
    assert not layer.bias.grad.any()
    for count in (1, 2):  # the second step is measured from where the first ended
        with torch.no_grad():
            layer.weight.add_(1.0)
            layer.bias.add_(1.0)  # what an optimizer's momentum of an earlier task may do
        guard.step()
        step = torch.ones(3, 4) @ (scaled if projected != "gradient" else torch.eye(4))
        torch.testing.assert_close(layer.weight.detach(), before + count * step)
        assert torch.equal(layer.bias, bias)
