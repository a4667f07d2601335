import pytest
import torch
from torch.distributions import Bernoulli, Categorical, Normal

from blip_rl.core.policy_tensors import divergence, policy_of, policy_tensors


def test_categorical_divergence_is_the_sum_over_actions():
    p, q = torch.randn(5, 4), torch.randn(5, 4)
    expected = [
        sum(a * (a.log() - b.log()) for a, b in zip(one, other, strict=True))
        for one, other in zip(p.softmax(1), q.softmax(1), strict=True)
    ]
    found = divergence({"logits": p}, {"logits": q})
    torch.testing.assert_close(found, torch.stack(expected))


def test_normal_divergence_is_the_sum_over_dimensions():
    mean, other_mean, std, other_std = (
        torch.randn(5, 3),
        torch.randn(5, 3),
        torch.rand(5, 3) + 0.1,
        torch.rand(5, 3) + 0.1,
    )
    expected = (other_std / std).log() + (std**2 + (mean - other_mean) ** 2) / (2 * other_std**2) - 0.5
    found = divergence({"loc": mean, "scale": std}, {"loc": other_mean, "scale": other_std})
    torch.testing.assert_close(found, expected.sum(1))


@pytest.mark.parametrize("policy", [Categorical(logits=torch.randn(3, 2)), Normal(torch.randn(3, 2), torch.ones(3, 2))])
def test_a_policy_is_described_and_made_again(policy):
    again = policy_of(policy_tensors(policy))
    assert type(again) is type(policy)
    actions = policy.sample()
    torch.testing.assert_close(again.log_prob(actions), policy.log_prob(actions))
    torch.testing.assert_close(divergence(policy_tensors(policy), policy_tensors(again)), torch.zeros(3))


def test_a_plain_tensor_is_logits():
    logits = torch.randn(3, 2)
    assert torch.equal(policy_tensors(logits)["logits"].softmax(1), logits.softmax(1))


def test_other_distributions_are_refused():
    with pytest.raises(TypeError, match="Bernoulli: expected a Categorical or a Normal one"):
        policy_tensors(Bernoulli(torch.ones(2) / 2))


@pytest.mark.parametrize(("first", "second", "nats"), [(-1.0, -105.0, 27.657), (-95.0, -105.0, 0.0)])
def test_the_divergence_of_an_action_whose_probability_is_0_in_float32_is_finite(first, second, nats):
    found = divergence({"logits": torch.tensor([[0.0, first]])}, {"logits": torch.tensor([[0.0, second]])})
    assert found.tolist() == pytest.approx([nats], abs=1e-3)
