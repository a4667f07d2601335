"""Plasticity of one layer, against numbers worked out by hand and slow oracles."""

import math

import numpy as np
import pytest
import torch

from blip_rl.core import plasticity


def test_a_unit_is_dormant_where_its_score_is_at_most_the_threshold():
    # Mean sizes 4, 0.1, 0.05, 0 have the mean 1.0375: τ = 0.025 cuts at 0.0259…, τ = 0.1 at 0.10375.
    activations = torch.tensor([[-4.0, 0.1, 0.0, 0.0], [4.0, -0.1, 0.1, 0.0]])
    assert plasticity.dormant_share(activations) == 0.25
    assert plasticity.dormant_share(activations, threshold=0.1) == 0.75


def test_the_threshold_itself_is_dormant():
    # Sizes 1 and 3: scores 0.5 and 1.5.
    assert plasticity.dormant_share(torch.tensor([[1.0, 3.0]]), threshold=0.5) == 0.5
    assert plasticity.dormant_share(torch.tensor([[1.0, 3.0]]), threshold=0.49) == 0.0


def test_a_channel_is_one_unit_wherever_it_responds():
    activations = torch.zeros(3, 4, 5, 5)
    activations[1, 0, 2, 2] = 1.0
    activations[2, 2] = 0.5
    # Mean sizes: 1/75, 0, 0.5·25/75, 0 → mean 0.045; channel 0 scores 0.296.
    assert plasticity.dormant_share(activations) == 0.5
    assert plasticity.dormant_share(activations, threshold=0.3) == 0.75


def test_a_silent_layer_is_all_dormant_and_has_no_rank():
    assert plasticity.dormant_share(torch.zeros(4, 3)) == 1.0
    assert plasticity.effective_rank(torch.zeros(4, 3)) == 0.0


def test_equal_singular_values_count_in_full():
    assert plasticity.effective_rank(3.0 * torch.eye(5)) == pytest.approx(5)
    assert plasticity.effective_rank(torch.eye(7)[:4]) == pytest.approx(4)  # more units than states
    assert plasticity.effective_rank(torch.ones(6, 9)) == pytest.approx(1, abs=1e-4)


def test_unequal_singular_values_count_by_their_entropy():
    # σ = 3, 1: p = ¾, ¼; H = ¾ ln(4/3) + ¼ ln 4.
    expected = math.exp(0.75 * math.log(4 / 3) + 0.25 * math.log(4))
    assert plasticity.effective_rank(torch.diag(torch.tensor([3.0, 1.0]))) == pytest.approx(expected)


@pytest.mark.parametrize("shape", [(40, 12), (12, 40), (5, 3, 4, 6)])
def test_effective_rank_equals_that_of_an_svd(shape):
    activations = torch.randn(shape, generator=torch.Generator().manual_seed(0)).relu()
    rows = activations.numpy().astype(np.float64)
    if rows.ndim == 4:
        rows = np.array([rows[n, :, y, x] for n in range(5) for y in range(4) for x in range(6)])
    singular = np.linalg.svd(rows, compute_uv=False)
    shares = singular / singular.sum()
    assert plasticity.effective_rank(activations) == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-5)


def test_activations_that_are_not_finite_have_no_rank():
    assert math.isnan(plasticity.effective_rank(torch.tensor([[1.0, math.inf]])))


def test_gradient_norm_is_the_root_of_the_fisher_summed_over_the_layer():
    assert plasticity.gradient_norm([torch.tensor([[1.0, 4.0]]), torch.tensor([4.0])]) == 3.0
    assert plasticity.gradient_norm([]) == 0.0


def test_free_bits_are_what_is_not_frozen_on_average():
    assert plasticity.free_bits(torch.tensor([[0, 20], [10, 6]], dtype=torch.uint8), 20) == 11.0


@pytest.mark.parametrize("measure", [plasticity.dormant_share, plasticity.effective_rank])
def test_no_states_are_refused(measure):
    with pytest.raises(ValueError, match="0 states"):
        measure(torch.zeros(0, 3))
