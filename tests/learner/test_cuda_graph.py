"""Captured updates and captured inference, compared with eager ones."""

import gc
import itertools
import weakref

import numpy as np
import pytest
import torch
from stable_baselines3.common.callbacks import CallbackList
from stable_baselines3.common.logger import configure

from blip_rl.learner.cuda_graph import CapturedFunction
from blip_rl.learner.distributions import evaluate_actions, sample
from blip_rl.learner.multitask import TaskSchedule, learn_interleaved
from blip_rl.methods.blip import Blip
from blip_rl.methods.ewc import Ewc
from blip_rl.methods.finetune import Finetune
from blip_rl.methods.freeze import Freeze
from blip_rl.methods.gpm import Gpm
from blip_rl.methods.l2 import L2
from blip_rl.methods.multitask import Multitask
from blip_rl.methods.packnet import Packnet
from blip_rl.methods.sgp import Sgp
from tests.learner.emulated_graphs import EmulatedGraph, emulate_cuda_graphs, no_host_reads
from tests.learner.small_agents import ENVIRONMENTS, RELEASE_LOSSES, ROLLOUT, agent, cartpole, same, weights
from tests.learner.small_agents import learn as learn_unprotected

METHODS = {
    "finetune": Finetune,
    "blip": lambda: Blip(first_task_bits=4, fisher_samples=32),
    "blip, floats": lambda: Blip(first_task_bits=4, fisher_samples=32, quantize_forward=False),
    "ewc": lambda: Ewc(fisher_samples=32),
    "l2": L2,
    "freeze": Freeze,
    "gpm": lambda: Gpm(samples=32),
    "sgp": lambda: Sgp(samples=32),
}


def learn(model, rollouts):
    """Learn as a run without protection does."""
    with model.protected_by(Finetune()):
        return learn_unprotected(model, rollouts)


@pytest.fixture
def captured_updates(monkeypatch):
    """Updates are captured; actions are chosen eagerly, so that rollouts are the same."""
    emulate_cuda_graphs(monkeypatch, actions=False)


def two_tasks(kind, method, compute, ppo):
    """An agent that has learned a first task, and a second one under the method's protection."""
    model, method = agent(env=ENVIRONMENTS[kind](), compute=compute, modulation=True, **ppo), METHODS[method]()
    for task in ("a", "b"):
        if task == "b":
            model.switch_task(task, ENVIRONMENTS[kind]())
        with model.protected_by(method):
            model.learn_task(3 * ROLLOUT, CallbackList([]))
            method.end_task(model.finished_task(method.samples_wanted, torch.Generator().manual_seed(0)))
    return model


@pytest.mark.parametrize(
    ("kind", "method", "ppo"),
    [*itertools.product(ENVIRONMENTS, METHODS, ({},)), ("vectors", "finetune", RELEASE_LOSSES)],
)
def test_a_captured_update_equals_an_eager_one_bit_for_bit(kind, method, ppo, captured_updates):
    eager, captured = two_tasks(kind, method, {"capture": "off"}, ppo), two_tasks(kind, method, {}, ppo)
    assert len(EmulatedGraph.captured) == 2, "one graph for each task"
    assert [graph.replays for graph in EmulatedGraph.captured] == [3 * 4 - 3] * 2, "after three warm-up runs"
    for name, value in weights(eager.policy).items():
        assert torch.equal(weights(captured.policy)[name], value), name
    one, other = (model.policy.optimizer.state_dict()["state"] for model in (eager, captured))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key][name], other[key][name]) for key in one for name in one[key])


def logged(model):
    """All values that are logged in four updates, by name."""
    model.set_logger(configure(None, []))
    seen, record = {}, model.logger.record
    model.logger.record = lambda name, value, *a, **k: (seen.setdefault(name, []).append(value), record(name, value))
    learn(model, 4)
    return {name: values for name, values in seen.items() if not name.startswith("time/")}


@pytest.mark.parametrize("kind", ENVIRONMENTS)
def test_metrics_of_captured_updates_equal_those_of_eager_ones(kind, captured_updates):
    eager = logged(agent(env=ENVIRONMENTS[kind](), compute={"capture": "off"}))
    assert not EmulatedGraph.captured
    assert logged(agent(env=ENVIRONMENTS[kind]())) == eager
    assert len(EmulatedGraph.captured) == 1
    assert len(set(eager["train/learning_rate"])) == 4
    assert {"train/loss", "train/explained_variance", "train/approx_kl"} <= eager.keys()


def test_a_new_clip_range_optimizer_or_method_leads_to_a_new_capture(captured_updates):
    model = agent()
    with model.protected_by(Finetune()):
        learn_unprotected(model, 2)
        model.clip_range = lambda left: 0.3
        learn_unprotected(model, 2)
        model.policy.new_optimizer(1e-3)
        learn_unprotected(model, 2)
    assert len(EmulatedGraph.captured) == 3
    with model.protected_by(Finetune()):
        learn_unprotected(model, 2)
    assert len(EmulatedGraph.captured) == 4


def test_rollouts_that_minibatches_do_not_divide_are_not_captured(captured_updates):
    model = agent()
    model.batch_size = 10
    learn(model, 4)
    assert not EmulatedGraph.captured


def test_packnet_is_not_captured(captured_updates):
    learned = []
    for capture in ("off", "auto"):
        model = agent(compute={"capture": capture})
        with model.protected_by(Packnet(tasks=2)):
            learn_unprotected(model, 6)
        learned.append(weights(model.policy))
    assert not EmulatedGraph.captured
    assert same(*learned)


def test_a_failed_capture_warns_once_and_training_continues_eagerly(monkeypatch):
    emulate_cuda_graphs(monkeypatch, actions=False, failing=True)
    plain = learn(agent(compute={"capture": "off"}), 4)
    failing = agent()
    with pytest.warns(UserWarning, match=r"CUDA graph capture failed: .*compute\.capture") as caught:
        learn(failing, 4)
    assert len(caught) == 1
    assert same(weights(plain.policy), weights(failing.policy))


def test_interleaved_tasks_are_captured_separately(captured_updates):
    """Their heads share an optimizer: a replay for one must not step the other with old gradients."""

    def learned(capture):
        envs = [cartpole(), cartpole(mix=2)]
        model = agent(env=envs[0], compute={"capture": capture}, modulation=True)
        schedule = TaskSchedule(model, [("a", envs[0], 4 * ROLLOUT), ("b", envs[1], 4 * ROLLOUT)])
        model.set_logger(configure(None, []))
        with model.protected_by(Multitask()):
            learn_interleaved(model, schedule, CallbackList([]))
        return weights(model.policy)

    plain = learned("off")
    assert same(learned("auto"), plain)
    assert [graph.replays for graph in EmulatedGraph.captured] == [4 * 4 - 3] * 2


# --- captured functions


def test_a_function_runs_eagerly_three_times_and_is_not_called_after_its_capture(monkeypatch):
    emulate_cuda_graphs(monkeypatch)
    total, calls = torch.zeros(()), []

    def work():
        calls.append(None)
        return total.add_(1) * 2

    piece = CapturedFunction(work, torch.device("cpu"))
    assert [piece.run().item() for _ in range(7)] == [2, 4, 6, 8, 10, 12, 14]
    assert len(calls) == 4, "three eager runs and the capture, which itself adds nothing"


class Cycle:
    """Refers to itself, so that only the garbage collector frees it."""

    def __init__(self):
        self.itself = self


@pytest.mark.parametrize("failing", [False, True])
def test_no_garbage_is_collected_during_a_capture(monkeypatch, failing):
    """Destroying an earlier graph, part of a reference cycle, would invalidate the capture."""
    emulate_cuda_graphs(monkeypatch, failing=failing)
    piece = CapturedFunction(lambda: enabled.append(gc.isenabled()), torch.device("cpu"))
    enabled, collected = [], []
    for _ in range(3):
        piece.run()
    weakref.finalize(cycle := Cycle(), lambda: collected.append(len(enabled)))
    del cycle
    if failing:
        with pytest.warns(UserWarning, match="capture failed"):
            piece.run()
    else:
        piece.run()
    assert enabled == [True, True, True, failing]
    assert collected == [3], "garbage is collected before the capture"
    assert gc.isenabled()


@pytest.mark.parametrize("quantize_forward", [True, False])
def test_blips_projection_never_reads_a_tensors_value(quantize_forward):
    model, blip = agent(), Blip(first_task_bits=4, quantize_forward=quantize_forward)
    with model.protected_by(blip):
        with no_host_reads():
            blip.after_step()
        for parameter in blip._parameters.values():
            for kind in ("weight", "remainder", "low", "high"):
                setattr(parameter, kind, getattr(parameter, kind).detach().to("meta"))
        blip.after_step()  # tensors on the meta device have no values


# --- actions


@pytest.mark.parametrize("kind", ENVIRONMENTS)
def test_captured_actions_follow_the_current_policy(kind, monkeypatch):
    emulate_cuda_graphs(monkeypatch)
    model = agent(env=ENVIRONMENTS[kind]())
    learn(model, 2)
    assert len(EmulatedGraph.captured) == 2, "one for actions, one for updates"
    model.train, shown = lambda: None, model._last_obs.copy()
    learn(model, 1)
    rollout = model.rollout_buffer
    states, actions = rollout.all_observations(), rollout.actions.flatten(0, 1)
    np.testing.assert_array_equal(states[: len(shown)].numpy(), shown)
    assert len(states.unique(dim=0)) == ROLLOUT or kind != "frames"
    values, log_probs, _ = evaluate_actions(model.policy, states, actions)
    torch.testing.assert_close(rollout.values.flatten(), values, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(rollout.log_probs.flatten(), log_probs, rtol=1e-5, atol=1e-6)
    assert len(actions.unique(dim=0)) > 1


def test_discrete_actions_are_sampled_with_the_policys_probabilities():
    model = agent()
    with torch.no_grad():
        model.policy.action_net.weight.zero_()
        model.policy.action_net.bias.copy_(torch.tensor([0.0, 1.0]))
    actions, values, log_probs = sample(model.policy, torch.zeros(20_000, 4))
    assert actions.float().mean().item() == pytest.approx(0.7311, abs=0.012)
    expected = model.policy.get_distribution(torch.zeros(1, 4)).distribution.logits[0]
    torch.testing.assert_close(log_probs, expected[actions])
    assert values.shape == (20_000,)


def test_continuous_actions_are_sampled_with_the_policys_mean_and_deviation():
    model = agent(env=ENVIRONMENTS["box actions"]())
    with torch.no_grad():
        model.policy.log_std.copy_(torch.tensor([0.0, -1.0]))
        model.policy.action_net.weight.zero_()
        model.policy.action_net.bias.copy_(torch.tensor([0.5, -2.0]))
    actions, _, log_probs = sample(model.policy, torch.zeros(20_000, 3))
    torch.testing.assert_close(actions.mean(0), torch.tensor([0.5, -2.0]), atol=0.03, rtol=0)
    torch.testing.assert_close(actions.std(0), torch.tensor([1.0, 0.3679]), atol=0.02, rtol=0)
    torch.testing.assert_close(log_probs, model.policy.evaluate_actions(torch.zeros(20_000, 3), actions)[1])
