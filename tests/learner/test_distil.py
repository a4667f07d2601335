"""Distillation: loss against closed forms, unchanged state, and the student's accuracy."""

import copy
import math

import pytest
import torch
from torch.nn import functional as F

from blip_rl.agent_config import DistilConfig
from blip_rl.core.weights import copy_weights
from blip_rl.learner import distil as module
from blip_rl.learner.distil import Labelled, distil, labelled
from blip_rl.learner.rollout_states import RolloutStates
from blip_rl.learner.separate_trunk import LearnApart
from blip_rl.methods.base import Method
from blip_rl.methods.blip import Blip
from tests.learner.separate_trunk_agents import (
    DISTIL,
    FEW,
    METHODS,
    SECOND_TASK,
    consolidate,
    inner_method,
    learn_apart,
    one_task,
)
from tests.learner.small_agents import ENVIRONMENTS, agent, same


def a_batch(model, states=16):
    """States with random labels."""
    observations = model.play(states)
    actions = model.policy.action_net.out_features
    policy = {"logits": torch.randn(states, actions)}
    if not hasattr(model.action_space, "n"):
        policy = {"loc": torch.randn(states, actions), "scale": torch.rand(states, actions) + 0.5}
    return Labelled(observations, policy, torch.randn(states))


def gradients(model, batch, method=None):
    """Gradients of one update at a learning rate of 0."""
    model.policy.new_optimizer(0.0)
    module.Student(model, method or Method(), DISTIL, lambda: None)._update(batch)
    return {name: p.grad.clone() for name, p in model.policy.named_parameters() if p.grad is not None}


# --- the loss


def test_gradients_of_discrete_actions_are_differences_of_probabilities():
    model, _ = one_task()
    batch = a_batch(model)
    with torch.no_grad():
        features = model.policy.extract_features(batch.observations)
        values = model.policy.critic(features)
        difference = (model.policy.action_net(features).softmax(1) - batch.policy["logits"].softmax(1)) / 16
        error = 2 * (values - batch.values) / 16
    found = gradients(model, batch)
    torch.testing.assert_close(found["tasks.1.actor.weight"], difference.T @ features)
    torch.testing.assert_close(found["tasks.1.actor.bias"], difference.sum(0))
    torch.testing.assert_close(found["tasks.1.critic.weight"], error[None] @ features)
    torch.testing.assert_close(found["tasks.1.critic.bias"], error.sum(0, keepdim=True))


def test_gradients_of_continuous_actions_have_their_closed_form():
    """Of KL(N(m, s) ‖ N(μ, σ)): (μ − m) / σ² by μ and 1 − (s² + (m − μ)²) / σ² by log σ."""
    model, _ = one_task("box actions")
    batch = a_batch(model)
    with torch.no_grad():
        features = model.policy.extract_features(batch.observations)
        away, sigma = model.policy.action_net(features) - batch.policy["loc"], model.policy.log_std.exp()
    found = gradients(model, batch)
    torch.testing.assert_close(found["tasks.1.actor.bias"], (away / sigma**2).mean(0))
    expected = 1 - (batch.policy["scale"] ** 2 + away**2) / sigma**2
    torch.testing.assert_close(found["tasks.1.log_std"], expected.mean(0))


@pytest.mark.parametrize("modulation", [False, True])
def test_value_errors_train_the_critic_alone(modulation):
    model, _ = one_task(modulation=modulation)
    batch = a_batch(model)
    found = gradients(model, batch), gradients(model, Labelled(batch.observations, batch.policy, batch.values + 100))
    differing = {name for name in found[0] if not torch.equal(found[0][name], found[1][name])}
    assert differing == {"tasks.1.critic.weight", "tasks.1.critic.bias"}
    assert found[0].keys() >= {f"features_extractor.fc{layer}.weight" for layer in (1, 2)}
    assert ("tasks.1.modulations.0.scale" in found[0]) == modulation
    assert not any(name.startswith("tasks.0.") for name in found[0])


def test_the_methods_loss_is_added():
    class Pulling(Method):
        def loss(self, outputs):
            policy, values = outputs(1, batch.observations)
            return policy.logits.square().mean() + values.square().mean()

    model, _ = one_task()
    batch = a_batch(model)
    plain, pulled = gradients(model, batch), gradients(model, batch, Pulling())
    assert not torch.equal(plain["features_extractor.fc1.weight"], pulled["features_extractor.fc1.weight"])
    assert torch.equal(plain["tasks.1.actor.weight"], pulled["tasks.1.actor.weight"])


# --- result


@pytest.mark.parametrize(("kind", "modulation"), [("vectors", True), ("frames", False), ("box actions", True)])
def test_the_student_approaches_the_teacher_and_its_distance_is_reported(kind, modulation):
    """Compared with a copy of the teacher, on the states that were played."""
    model, method = one_task(kind, modulation=modulation)
    learn_apart(model, method)
    with torch.no_grad():  # 96 steps hardly change the actor: make the policy far from uniform
        model.policy.action_net.weight.mul_(300)
    teacher, played, play = copy.deepcopy(model.policy), [], model.play
    model.play = lambda states: (played.append(play(states)), played[-1])[1]
    found = distil(model, method, DISTIL.model_copy(update={"updates": 200}))
    states = torch.cat(played)
    assert len(states) == DISTIL.steps
    one, other = labelled(teacher, states), labelled(model.policy, states)
    if "logits" in one.policy:
        p, q = one.policy["logits"].softmax(1), other.policy["logits"].softmax(1)
        expected = (p * (p.log() - q.log())).sum(1).mean().item()
        agreement = (p.argmax(1) == q.argmax(1)).double().mean().item()
        uniform = (p * (p.log() + math.log(p.shape[1]))).sum(1).mean().item()
        assert found.agreement == pytest.approx(agreement)
        assert expected < 0.8 * uniform, "closer than the uniform policy"
    else:
        m, s, mu, sigma = one.policy["loc"], one.policy["scale"], other.policy["loc"], other.policy["scale"]
        expected = ((sigma / s).log() + (s**2 + (m - mu) ** 2) / (2 * sigma**2) - 0.5).sum(1).mean().item()
        assert found.agreement is None
        assert expected < 0.7 * (m**2 / 2).sum(1).mean().item()
    assert found.divergence == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert found.value_error == pytest.approx(F.mse_loss(other.values, one.values).item(), rel=1e-4)
    assert found.seconds > 0


def test_states_of_rollouts_are_labelled_by_the_teacher_and_distilled_on(monkeypatch):
    model, method = one_task()
    rollouts, kept = model.play(40), RolloutStates()
    kept.add(rollouts)
    learn_apart(model, method)
    teacher, seen, imitate = copy.deepcopy(model.policy), [], module.Student.imitate
    monkeypatch.setattr(
        module.Student, "imitate", lambda self, states, updates: (seen.append(states), imitate(self, states, updates))
    )
    distil(model, method, DISTIL, rollouts=kept)
    first, second = seen
    assert torch.equal(first.observations[:40], rollouts)
    assert (len(first.values), len(second.values)) == (40 + DISTIL.teacher_states, 40 + DISTIL.steps)
    expected = labelled(teacher, rollouts)
    assert torch.equal(first.policy["logits"][:40], expected.policy["logits"])
    assert torch.equal(first.values[:40], expected.values)


@pytest.mark.parametrize(("name", "kind"), [*((name, "vectors") for name in METHODS), ("gpm", "frames")])
def test_tasks_can_be_distilled_under_every_method(name, kind):
    """From the first task on; metrics are finite, and nothing is kept of the task's own trunk."""
    model, method = agent(env=ENVIRONMENTS[kind](), modulation=kind == "frames"), LearnApart(inner_method(name))
    initial = copy_weights(model.policy.trunk)
    for task in ("a", "b"):
        if task == "b":
            model.switch_task(task, SECOND_TASK[kind]())
        learn_apart(model, method, 2)
        assert method.apart
        distilled = distil(model, method, FEW)
        assert not method.apart
        metrics = consolidate(model, method)
        assert all(math.isfinite(value) for value in (*metrics.values(), distilled.divergence, distilled.value_error))
        assert same(method.state().tensors, method.inner.state().tensors)
        assert (task == "b" and name == "freeze") or not same(copy_weights(model.policy.trunk), initial)
        initial = copy_weights(model.policy.trunk)
    assert all(torch.isfinite(parameter).all() for parameter in model.policy.parameters())


@pytest.mark.parametrize(
    ("teacher", "student", "played", "rates", "halves"),
    [
        (33, 5, 34 + 6, [0.6, 0.4, 0.2, 0.6, 0.3], [True, False, False, True, False]),
        (32, 0, 32, [0.6, 0.48, 0.36, 0.24, 0.12], [True, False, False, False, False]),
    ],
)
def test_each_half_has_new_adam_moments_and_a_decaying_learning_rate(
    teacher, student, played, rates, halves, monkeypatch
):
    """Without states of the student there is one half; steps of both environments are counted."""
    model, method = one_task()
    learn_apart(model, method)
    updates, update, steps = [], module.Student._update, model.num_timesteps

    def recorded(self, batch):
        optimizer = model.policy.optimizer
        updates.append((len(batch.values), optimizer.param_groups[0]["lr"], not optimizer.state))
        return update(self, batch)

    monkeypatch.setattr(module.Student, "_update", recorded)
    few = {"updates": 5, "minibatch": 9, "learning_rate": 0.6}
    distil(model, method, DistilConfig(teacher_states=teacher, student_states=student, **few))
    sizes, used, new = zip(*updates, strict=True)
    assert set(sizes) == {9}
    assert used == pytest.approx(rates)
    assert list(new) == halves
    assert model.num_timesteps == steps + played


def test_exceptions_of_on_update_propagate_and_detach_the_method():
    model, method = one_task(name="gpm")
    learn_apart(model, method)

    def stop():
        raise KeyError

    with pytest.raises(KeyError):
        distil(model, method, DISTIL, stop)
    assert not any(parameter._post_accumulate_grad_hooks for parameter in model.policy.trunk.parameters())


# --- protection


@pytest.mark.parametrize("quantize", [True, False])
def test_every_weight_stays_in_its_interval_under_blip(quantize):
    model, method = one_task()
    method.inner = blip = Blip(first_task_bits=4, fisher_samples=32, quantize_forward=quantize)
    with model.protected_by(blip):
        pass
    consolidate(model, blip)
    intervals, shared = blip.intervals(), copy_weights(model.policy.trunk)
    assert any((high - low < 0.5).any() for low, high in intervals.values()), "something is protected"
    learn_apart(model, method)
    assert any(((p < intervals[n][0]) | (p > intervals[n][1])).any() for n, p in model.policy.trunk.named_parameters())
    distil(model, method, DISTIL)
    for name, parameter in model.policy.trunk.named_parameters():
        low, high = intervals[name]
        assert ((low <= parameter) & (parameter <= high)).all(), name
    assert not same(copy_weights(model.policy.trunk), shared), "free bits are used"


def test_a_frozen_trunk_and_earlier_tasks_are_unchanged_bit_for_bit():
    model, method = one_task(name="freeze", modulation=True)
    shared, states = copy_weights(model.policy.trunk), model.play(64)
    with model.policy.using_task("a"):
        before = labelled(model.policy, states)
    learn_apart(model, method)
    distil(model, method, DISTIL)
    consolidate(model, method)
    assert same(copy_weights(model.policy.trunk), shared)
    with model.policy.using_task("a"):
        after = labelled(model.policy, states)
    assert torch.equal(after.policy["logits"], before.policy["logits"])
    assert torch.equal(after.values, before.values)


# --- non-finite values


@pytest.mark.parametrize("name", ["finetune", "clear"])
def test_diverging_distillation_raises(name, monkeypatch):
    monkeypatch.setattr(module, "_CHECKED_EVERY", 3)
    model, method = one_task(name=name)
    learn_apart(model, method)
    calls, update = [], module.Student._update

    def with_nan(self, batch):
        calls.append(None)
        if len(calls) == 4:
            with torch.no_grad():
                model.policy.trunk.fc1.weight[0, 0] = math.nan
        return update(self, batch)

    monkeypatch.setattr(module.Student, "_update", with_nan)
    with pytest.raises(FloatingPointError, match=r"not a finite number, distilling b at step .*distil\.learning_rate"):
        distil(model, method, DISTIL)
    assert len(calls) <= 6


def test_distilling_the_first_task_leaves_no_saturated_units():
    """Units with a constant output give their input weights no Fisher information and so no protection."""

    def saturated(states):
        activations = torch.tanh(model.policy.trunk.fc1(states))
        return (model.policy.trunk.fc2(activations).abs() > 3.5).all(0).float().mean()

    model = agent()
    method = LearnApart(inner_method("freeze"))
    learn_apart(model, method)
    with torch.no_grad():  # as after the 100,000 steps of a real task
        model.policy.trunk.fc1.bias.fill_(1)
        model.policy.trunk.fc2.weight.mul_(10)
    states = model.play(32)
    assert saturated(states) > 0.3
    distil(model, method, DISTIL)
    assert saturated(states) == 0


@pytest.mark.parametrize(("free", "moved"), [(2 * (64 + 8 + 24), True), (2 * (64 + 8 + 24) - 1, False)])
def test_states_are_moved_to_a_gpu_if_they_take_at_most_half_of_its_memory(free, moved, monkeypatch):
    states, gpu = Labelled(torch.zeros(2, 8), {"logits": torch.zeros(2, 3)}, torch.zeros(2)), torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 0))
    monkeypatch.setattr(Labelled, "to", lambda self, device: device)
    assert module._nearest(states, gpu) is (gpu if moved else states)
    assert module._nearest(states, torch.device("cpu")) is states
