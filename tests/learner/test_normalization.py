"""Running normalisation: stable-baselines3's VecNormalize as the oracle, statistics per task, exact restoring."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.callbacks import CallbackList
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecNormalize

from blip_rl.config import NormalizationConfig
from blip_rl.errors import UserError
from blip_rl.learner import state
from blip_rl.learner.distil import distil
from blip_rl.learner.distributions import evaluate_actions
from blip_rl.learner.multitask import TaskSchedule, learn_interleaved
from blip_rl.learner.normalization import Normalizer, RewardNormalizer, RunningMoments
from blip_rl.learner.separate_trunk import LearnApart
from blip_rl.methods.finetune import Finetune
from blip_rl.tasks.recorded import RecordedVecEnv
from tests.learner.emulated_graphs import EmulatedGraph, emulate_cuda_graphs
from tests.learner.separate_trunk_agents import DISTIL, consolidate, inner_method
from tests.learner.small_agents import ENVIRONMENTS, ROLLOUT, agent, cartpole, learn, same, weights
from tests.learner.test_state import through_files

BOTH = NormalizationConfig(normalize_observations=True, normalize_rewards=True)
NUMBERS = spaces.Box(-np.inf, np.inf, (3,), np.float32)
EMPTY = 1e-4  # count of new statistics


def normalized_agent(**options):
    return agent(env=RecordedVecEnv(cartpole()), normalization=BOTH, **options)


def statistics(model, task=0):
    return weights(model.policy.module_of(task).normalizer)


def drawn(*shape, seed=0):
    return np.random.default_rng(seed).normal(3, 2, shape).astype(np.float32)


def collected(model):
    """The next rollout, before an update."""
    _, callback = model._setup_learn(ROLLOUT, CallbackList([]), reset_num_timesteps=False)
    model.collect_rollouts(model.env, callback, model.rollout_buffer, model.n_steps)
    return model.rollout_buffer


# --- VecNormalize as the oracle


@pytest.fixture(scope="module")
def recorded():
    """An agent after three rollouts, and VecNormalize after the same steps of the same games."""
    model = normalized_agent()
    model.restart_games(5)
    learn(model, 3)
    env = cartpole()
    env.seed(5)
    oracle = VecNormalize(env, gamma=model.gamma)
    oracle.reset()
    actions, rewards, seen = model.env.action_log(), [], None
    for step in actions.astype(np.int64):
        seen = oracle.obs_rms.copy()  # of the observations before this step: those that the rollouts hold
        rewards.append(oracle.step(step)[1])
    return model, oracle, seen, np.stack(rewards)


def test_statistics_equal_those_of_vecnormalize(recorded):
    model, oracle, seen, _ = recorded
    mine = model.policy.current.normalizer
    for moments, expected in ((mine.observations, seen), (mine.returns, oracle.ret_rms)):
        np.testing.assert_allclose(moments.mean.numpy(), expected.mean, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(moments.var.numpy(), expected.var, rtol=1e-5)
        assert moments.count.item() == pytest.approx(expected.count)


def test_rewards_equal_those_of_vecnormalize(recorded):
    model, _, _, rewards = recorded
    steps = model.n_steps
    np.testing.assert_array_equal(model.rollout_buffer.rewards, rewards[-steps:])
    assert rewards.std() > 0.01  # CartPole's own rewards are all 1


def test_observations_are_normalised_and_clipped_as_by_vecnormalize(recorded):
    model, oracle, seen, _ = recorded
    oracle.obs_rms = seen
    observations = drawn(50, 4) * np.array([1, 100, 0.01, 1], dtype=np.float32)
    expected = oracle.normalize_obs(observations)
    assert np.abs(expected).max() == 10
    found = model.policy.preprocess(torch.from_numpy(observations))
    torch.testing.assert_close(found, torch.from_numpy(expected), rtol=1e-4, atol=1e-5)


def test_a_large_mean_loses_no_digits():
    normalizer, expected = Normalizer(NUMBERS, BOTH), torch.from_numpy(drawn(64, 3))
    known = RunningMeanStd(shape=(3,))
    known.mean, known.var = np.full(3, 1e6), np.full(3, 1e-4)
    normalizer.observations.store(known)
    torch.testing.assert_close(normalizer(1e6 + 0.01 * expected.double()), expected, rtol=1e-3, atol=1e-3)


# --- when statistics change


def test_actions_are_chosen_and_learned_from_with_the_same_statistics():
    model = normalized_agent()
    learn(model, 2)
    rollout = collected(model)
    with torch.no_grad():
        _, log_probs, _ = evaluate_actions(model.policy, rollout.all_observations(), rollout.actions.flatten())
    torch.testing.assert_close(log_probs, rollout.log_probs.flatten(), rtol=1e-5, atol=1e-6)


def test_playing_and_measuring_leave_the_statistics_unchanged():
    model = normalized_agent()
    learn(model, 1)
    before = statistics(model)
    model.policy.act(drawn(2, 4), greedy=True)
    model.policy.outputs_of(1, torch.from_numpy(drawn(2, 4)))
    model.play(16)
    assert same(statistics(model), before)


def test_each_task_has_statistics_that_other_tasks_leave_unchanged():
    model = normalized_agent()
    learn(model, 2)
    first, observations = statistics(model), torch.from_numpy(drawn(5, 4))
    inputs = model.policy.preprocess(observations)
    model.switch_task("b", RecordedVecEnv(cartpole(mix=2)))
    assert statistics(model, 1)["observations.count"].item() == EMPTY
    learn(model, 1)
    assert same(statistics(model, 0), first)
    with model.policy.using_task("a"):
        assert model.policy.preprocess(observations).equal(inputs)
    assert not model.policy.preprocess(observations).equal(inputs)
    model.switch_task("a", RecordedVecEnv(cartpole()))
    learn(model, 1)
    assert statistics(model, 0)["observations.count"].item() == pytest.approx(3 * ROLLOUT + EMPTY)


def test_interleaved_tasks_have_statistics_and_discounted_returns_of_their_own():
    model = normalized_agent()
    tasks = [(name, RecordedVecEnv(cartpole(mix)), 2 * ROLLOUT) for mix, name in enumerate("ab", start=1)]
    schedule = TaskSchedule(model, tasks)
    for _ in schedule.each():
        model.restart_games(1)
    learn_interleaved(model, schedule, CallbackList([]))
    for task in (0, 1):
        found = statistics(model, task)
        assert found["observations.count"].item() == pytest.approx(2 * ROLLOUT + EMPTY)
        assert found["returns.count"].item() == pytest.approx(2 * ROLLOUT + EMPTY)
    for index, slot in enumerate(schedule._slots):
        schedule.use(slot)
        env = VecNormalize(cartpole(index + 1), gamma=model.gamma)
        env.venv.seed(1)
        env.reset()
        for step in model.env.action_log().astype(np.int64):
            env.step(step)
        assert statistics(model, index)["returns.var"].item() == pytest.approx(float(env.ret_rms.var))


def test_distilling_keeps_the_statistics_of_the_task():
    model, method = normalized_agent(), LearnApart(inner_method("finetune"))
    with model.protected_by(method):
        model.learn_task(3 * ROLLOUT, CallbackList([]))
    before = statistics(model)
    found = distil(model, method, DISTIL)
    assert same(statistics(model), before)
    assert found.divergence < 0.05


def test_clear_replays_earlier_tasks_with_their_own_statistics():
    model, method = normalized_agent(), inner_method("clear")
    with model.protected_by(method):
        learn(model, 2)
    consolidate(model, method)
    model.switch_task("b", RecordedVecEnv(cartpole(mix=2)))
    memory = method.state().tensors
    with torch.no_grad():
        policy, values = model.policy.outputs_of(1, memory["task1.observations"])
    torch.testing.assert_close(policy.logits, memory["task1.logits"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(values, memory["task1.values"], rtol=1e-4, atol=1e-5)


# --- restoring, capture


def test_an_agent_restored_in_the_middle_of_an_episode_learns_bit_identically():
    """The discounted returns are recomputed from the replayed actions."""
    model = normalized_agent()
    model.restart_games(5)
    learn(model, 3)
    taken, actions = through_files(state.take(model)), model.env.action_log()
    assert (model._rewards._returns > 1).any()
    learn(model, 2)
    other = normalized_agent(seed=9)
    state.restore(other, taken)
    other.replay_games(5, actions)
    state.restore_random(other, taken)
    learn(other, 2)
    assert same(state.take(other).tensors, state.take(model).tensors)


def test_a_captured_update_reads_the_newest_statistics(monkeypatch):
    def learned():
        model = normalized_agent(seed=3)
        with model.protected_by(Finetune()):
            learn(model, 4)
        return weights(model.policy)

    eager = learned()
    emulate_cuda_graphs(monkeypatch, actions=False)
    captured = learned()
    assert sum(graph.replays for graph in EmulatedGraph.captured) > 4
    assert same(captured, eager)


def test_captured_actions_follow_the_newest_statistics(monkeypatch):
    emulate_cuda_graphs(monkeypatch)
    model = normalized_agent()
    learn(model, 4)
    assert any(graph.replays for graph in EmulatedGraph.captured)
    rollout = collected(model)
    with torch.no_grad():
        values, _, _ = evaluate_actions(model.policy, rollout.all_observations(), rollout.actions.flatten())
    torch.testing.assert_close(values.flatten(), rollout.values.flatten(), rtol=1e-5, atol=1e-6)


# --- off, and refused


def test_nothing_is_saved_or_changed_without_normalisation():
    model = agent()
    assert not [name for name in model.policy.task_state() if "normalizer" in name]
    rewards, observations = np.array([3.0, -50.0], np.float32), torch.from_numpy(drawn(3, 4))
    assert model._rewards.normalize(rewards, np.array([False, True])) is rewards
    assert model.policy.preprocess(observations).equal(observations)


@pytest.mark.parametrize(
    ("space", "rule"),
    [
        (spaces.Box(0, 255, (4, 36, 36), np.uint8), r"uint8 \(4, 36, 36\): images, which are divided by 255 already"),
        (spaces.Box(0, 9, (3,), np.int64), r"int64 \(3,\): not floating-point vectors"),
    ],
)
def test_only_vectors_of_floating_point_numbers_can_be_normalised(space, rule):
    with pytest.raises(UserError, match=rule):
        Normalizer(space, NormalizationConfig(normalize_observations=True))
    assert Normalizer(space, NormalizationConfig(normalize_rewards=True)).observations is None


def test_rewards_are_clipped_to_ten_deviations():
    rewards = RewardNormalizer(RunningMoments(), 0.0, 1)
    rewards.begin()
    for value in [1.0, -1.0] * 500:
        rewards.normalize(np.array([value], np.float32), np.array([False]))
    found = [rewards.normalize(np.array([value], np.float32), np.array([False])).item() for value in (5.0, -300.0)]
    assert found[0] == pytest.approx(5, rel=0.05)
    assert found[1] == -10


def test_rewards_of_tasks_with_images_can_be_normalised():
    model = agent(env=ENVIRONMENTS["frames"](), normalization=NormalizationConfig(normalize_rewards=True))
    learn(model, 1)
    assert model.policy.current.normalizer.returns.count.item() == pytest.approx(ROLLOUT + EMPTY)
