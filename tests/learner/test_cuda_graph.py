"""Captured updates and captured inference, compared with eager ones."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.callbacks import CallbackList
from stable_baselines3.common.logger import configure

from blip_rl.learner import base_ppo, cuda_graph
from blip_rl.learner.cuda_graph import CapturedFunction
from blip_rl.learner.distributions import evaluate_actions, sample
from blip_rl.learner.multitask import TaskSchedule, learn_interleaved
from blip_rl.learner.ppo import ContinualPPO
from blip_rl.learner.rollout import Rollout
from blip_rl.methods import load_method, method_names
from blip_rl.methods.blip import Blip
from blip_rl.methods.ewc import Ewc
from blip_rl.methods.finetune import Finetune
from blip_rl.methods.freeze import Freeze
from blip_rl.methods.gpm import Gpm
from blip_rl.methods.l2 import L2
from blip_rl.methods.multitask import Multitask
from blip_rl.methods.packnet import Packnet
from blip_rl.methods.sgp import Sgp
from tests.learner.small_agents import ROLLOUT, Lines, Pixels, agent, cartpole, same, vectorised, weights
from tests.learner.small_agents import learn as learn_unprotected
from tests.learner.tape import Tape, acted_out, no_looks

NUMBERS = spaces.Box(-1, 1, (3,), np.float32)
ENVIRONMENTS = {
    "vectors": cartpole,
    "frames": lambda: vectorised(lambda: Pixels((2, 36, 36))),
    "box actions": lambda: vectorised(lambda: Lines(spaces.Box(-0.5, 2, (2,), np.float32), NUMBERS)),
}
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
    """Learn with the method that a run without protection has."""
    with model.protected_by(Finetune()):
        return learn_unprotected(model, rollouts)


@pytest.fixture
def records(monkeypatch):
    """Updates are recorded, on tape; actions are chosen as ever, so that rollouts are the same."""
    acted_out(monkeypatch, cuda_graph)
    monkeypatch.setattr(base_ppo, "can_capture", lambda device: True)
    collector = base_ppo.Collector
    monkeypatch.setattr(base_ppo, "Collector", lambda env, policy, capture: collector(env, policy, capture=False))


def two_tasks(kind, method, **compute):
    """The weights after a first task and a second one under the method's protection."""
    model, method = agent(env=ENVIRONMENTS[kind](), compute=compute, modulation=True), METHODS[method]()
    for task in ("a", "b"):
        if task == "b":
            model.switch_task(task, ENVIRONMENTS[kind]())
        with model.protected_by(method):
            model.learn_task(3 * ROLLOUT, CallbackList([]))
            method.end_task(model.finished_task(method.samples_wanted, torch.Generator().manual_seed(0)))
    return model


@pytest.mark.parametrize("kind", ENVIRONMENTS)
@pytest.mark.parametrize("method", METHODS)
def test_a_replayed_update_is_the_plain_one_to_the_bit(kind, method, records):
    plain, recorded = two_tasks(kind, method, capture="off"), two_tasks(kind, method)
    assert len(Tape.made) == 2, "one recording for each task"
    assert [tape.replays for tape in Tape.made] == [3 * 4 - 3] * 2, "after three runs as they are"
    for name, value in weights(plain.policy).items():
        assert torch.equal(weights(recorded.policy)[name], value), name
    one, other = (model.policy.optimizer.state_dict()["state"] for model in (plain, recorded))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key][name], other[key][name]) for key in one for name in one[key])


def figures(model):
    model.set_logger(configure(None, []))
    seen, record = {}, model.logger.record
    model.logger.record = lambda name, value, *a, **k: (seen.setdefault(name, []).append(value), record(name, value))
    learn(model, 4)
    return {name: values for name, values in seen.items() if not name.startswith("time/")}


@pytest.mark.parametrize("kind", ENVIRONMENTS)
def test_metrics_of_replayed_updates_equal_those_of_eager_ones(kind, records):
    plain = figures(agent(env=ENVIRONMENTS[kind](), compute={"capture": "off"}))
    assert not Tape.made
    assert figures(agent(env=ENVIRONMENTS[kind]())) == plain
    assert len(Tape.made) == 1
    assert len(set(plain["train/learning_rate"])) == 4
    assert {"train/loss", "train/explained_variance", "train/approx_kl"} <= plain.keys()


def test_other_numbers_are_recorded_anew(records):
    model = agent()
    with model.protected_by(Finetune()):
        learn_unprotected(model, 2)
        model.clip_range = lambda left: 0.3
        learn_unprotected(model, 2)
        model.policy.new_optimizer(1e-3)
        learn_unprotected(model, 2)
    assert len(Tape.made) == 3
    with model.protected_by(Finetune()):
        learn_unprotected(model, 2)
    assert len(Tape.made) == 4


def test_a_rollout_that_minibatches_do_not_divide_is_learned_from_as_ever(records):
    model = agent()
    model.batch_size = 10
    learn(model, 4)
    assert not Tape.made


def test_a_method_that_decides_anew_at_each_step_is_never_recorded(records):
    learned = []
    for capture in ("off", "auto"):
        model = agent(compute={"capture": capture})
        with model.protected_by(Packnet(tasks=2)):
            learn_unprotected(model, 6)
        learned.append(weights(model.policy))
    assert not Tape.made
    assert same(*learned)


def test_which_methods_say_that_they_can_be_recorded():
    names = {name for name in method_names() if load_method(name).capturable}
    assert set(method_names()) - names == {"clear", "packnet"}


def test_numbers_gone_bad_are_found_as_ever(records):
    model = agent()
    learn(model, 3)
    step = model.env.step_wait
    model.env.step_wait = lambda: (lambda o, r, d, i: (o, r * float("nan"), d, i))(*step())
    with pytest.raises(FloatingPointError, match="the policy gradient loss is not a finite number, learning a at step"):
        learn(model, 1)


def test_without_a_recording_it_goes_on_with_one_warning(monkeypatch, records):
    acted_out(monkeypatch, cuda_graph, failing=True)
    plain = learn(agent(compute={"capture": "off"}), 4)
    failing = agent()
    with pytest.warns(UserWarning, match=r"CUDA graph capture failed: .*compute\.capture") as caught:
        learn(failing, 4)
    assert len(caught) == 1
    assert same(weights(plain.policy), weights(failing.policy))


def test_tasks_in_turn_are_recorded_each_for_itself(records):
    """Their heads share an optimizer: a replay of one must not take the other's gradients along."""

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
    assert [tape.replays for tape in Tape.made] == [4 * 4 - 3] * 2


# --- what is recorded


def test_a_recording_runs_as_it_is_first_and_never_asks_python_again(monkeypatch):
    acted_out(monkeypatch, cuda_graph)
    total, asked = torch.zeros(()), []

    def work():
        asked.append(None)
        return total.add_(1) * 2

    piece = CapturedFunction(work, torch.device("cpu"))
    assert [piece.run().item() for _ in range(7)] == [2, 4, 6, 8, 10, 12, 14]
    assert len(asked) == 4, "three runs and the recording, which itself adds nothing"


@pytest.mark.parametrize("quantize_forward", [True, False])
def test_what_blip_does_after_a_step_never_looks_into_a_tensor(quantize_forward):
    model, blip = agent(), Blip(first_task_bits=4, quantize_forward=quantize_forward)
    with model.protected_by(blip):
        with no_looks():
            blip.after_step()
        for parameter in blip._parameters.values():
            for kind in ("weight", "remainder", "low", "high"):
                setattr(parameter, kind, getattr(parameter, kind).detach().to("meta"))
        blip.after_step()  # there is nothing to look at in these


# --- actions


def staged(monkeypatch, env, **compute):
    acted_out(monkeypatch, cuda_graph)
    monkeypatch.setattr(base_ppo, "can_capture", lambda device: True)
    return agent(env=env, compute=compute)


@pytest.mark.parametrize("kind", ENVIRONMENTS)
def test_recorded_choices_are_those_of_the_policy_as_it_is_now(kind, monkeypatch):
    model = staged(monkeypatch, ENVIRONMENTS[kind]())
    learn(model, 2)
    assert len(Tape.made) == 2, "one for choosing, one for updating"
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


def test_actions_are_drawn_as_often_as_the_policy_says():
    model = agent()
    with torch.no_grad():
        model.policy.action_net.weight.zero_()
        model.policy.action_net.bias.copy_(torch.tensor([0.0, 1.0]))
    actions, values, log_probs = sample(model.policy, torch.zeros(20_000, 4))
    assert actions.float().mean().item() == pytest.approx(0.7311, abs=0.012)
    expected = model.policy.get_distribution(torch.zeros(1, 4)).distribution.logits[0]
    torch.testing.assert_close(log_probs, expected[actions])
    assert values.shape == (20_000,)


def test_continuous_actions_are_drawn_as_widely_as_the_policy_says():
    model = agent(env=ENVIRONMENTS["box actions"]())
    with torch.no_grad():
        model.policy.log_std.copy_(torch.tensor([0.0, -1.0]))
        model.policy.action_net.weight.zero_()
        model.policy.action_net.bias.copy_(torch.tensor([0.5, -2.0]))
    actions, _, log_probs = sample(model.policy, torch.zeros(20_000, 3))
    torch.testing.assert_close(actions.mean(0), torch.tensor([0.5, -2.0]), atol=0.03, rtol=0)
    torch.testing.assert_close(actions.std(0), torch.tensor([1.0, 0.3679]), atol=0.02, rtol=0)
    torch.testing.assert_close(log_probs, model.policy.evaluate_actions(torch.zeros(20_000, 3), actions)[1])


@pytest.mark.parametrize("kind", ENVIRONMENTS)
def test_judging_unchecked_is_what_stable_baselines3_computes(kind):
    model = learn(agent(env=ENVIRONMENTS[kind](), modulation=True), 1)
    batch = next(model.rollout_buffer.minibatches(16))
    found = evaluate_actions(model.policy, batch.observations, batch.actions)
    values, log_probs, entropy = model.policy.evaluate_actions(batch.observations, batch.actions)
    for mine, theirs in zip(found, (values.flatten(), log_probs, entropy), strict=True):
        assert torch.equal(mine, theirs)


def test_minibatches_written_over_one_another_are_the_same():
    model = agent(env=ENVIRONMENTS["frames"]())
    model.train = lambda: None
    learn(model, 1)
    rollout: Rollout = model.rollout_buffer
    torch.manual_seed(0)

    np.random.seed(3)  # noqa: NPY002
    fresh = [batch.tensors() for batch in rollout.minibatches(8)]
    np.random.seed(3)  # noqa: NPY002
    place = rollout.empty_minibatch(8)
    for expected, found in zip(fresh, rollout.minibatches(8, place), strict=True):
        assert found is place
        for one, other in zip(expected, found.tensors(), strict=True):
            assert torch.equal(one, other)
            assert one.stride() == other.stride()


def test_agents_on_a_cpu_record_nothing():
    model = learn(agent(), 2)
    assert isinstance(model, ContinualPPO)
    assert model._captured is None
