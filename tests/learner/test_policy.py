"""The policy's shared trunk, task modules and optimizer."""

import copy
import subprocess
import sys

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn
from torch.distributions import Categorical, Normal

from blip_rl.config import NormalizationConfig
from blip_rl.errors import UserError
from blip_rl.learner.adam import Adam
from blip_rl.learner.distributions import evaluate_actions, sample
from blip_rl.learner.policy import ContinualPolicy
from blip_rl.learner.rollout import Rollout
from tests.learner.small_agents import trunk_config, weights

NUMBERS = spaces.Box(-np.inf, np.inf, (4,), np.float32)


TWO_TASKS = {"a": spaces.Discrete(2), "b": spaces.Discrete(6)}


def policy(modulation=False, tasks=TWO_TASKS, **options):
    trunk = trunk_config(modulation=modulation)
    made = ContinualPolicy(NUMBERS, spaces.Discrete(2), lambda _: 1e-3, trunk=trunk, **options)
    for name, actions in tasks.items():
        made.add_task(name, actions)
    if tasks:
        made.use_task("a")
    return made


def values(made, observations):
    return made.predict_values(torch.from_numpy(observations))


OBSERVATIONS = np.random.default_rng(0).standard_normal((50, 4)).astype(np.float32)


def test_each_task_has_its_own_head_and_actions():
    made = policy()
    assert made.task_names == ["a", "b"]
    outputs = {}
    for name, actions in (("a", 2), ("b", 6)):
        made.use_task(name)
        assert made.action_space == spaces.Discrete(actions)
        assert made.action_net.out_features == actions
        assert made.value_net.out_features == 1
        taken = made.act(OBSERVATIONS, greedy=False)
        assert set(taken.tolist()) == set(range(actions))
        head = made.head(made.trunk(torch.from_numpy(OBSERVATIONS)))
        assert isinstance(head, Categorical)
        assert head.logits.shape == (50, actions)
        outputs[name] = values(made, OBSERVATIONS)
    assert not torch.equal(outputs["a"], outputs["b"])


def test_greedy_actions_are_the_most_probable_ones():
    made = policy()
    with torch.no_grad():
        made.action_net.weight.mul_(100)
        likeliest = made.head(made.trunk(torch.from_numpy(OBSERVATIONS))).probs.argmax(1)
    assert made.act(OBSERVATIONS, greedy=True).tolist() == likeliest.tolist()


@pytest.mark.parametrize("modulation", [True, False])
def test_task_modules_hold_heads_and_modulations_and_the_trunk_the_rest(modulation):
    made = policy(modulation)
    names = {name for name, _ in made.tasks[0].named_parameters()}
    scales = {f"modulations.{layer}.{kind}" for layer in (0, 1) for kind in ("scale", "shift")}
    assert names == {"actor.weight", "actor.bias", "critic.weight", "critic.bias"} | (scales if modulation else set())
    trunk = {name for name, _ in made.trunk.named_parameters()}
    assert trunk == {"fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"}


def test_heads_are_initialised_orthogonally_without_bias():
    made = policy()
    for head, gain in ((made.action_net, 0.01), (made.value_net, 1.0)):
        gram = (head.weight @ head.weight.T).detach()
        torch.testing.assert_close(gram, gain**2 * torch.eye(len(gram)), atol=1e-6, rtol=1e-4)
        assert not head.bias.any()


# --- switching


def test_using_task_switches_actions_module_and_modulations_and_returns():
    made = policy(modulation=True)
    before = made.act(OBSERVATIONS, greedy=True)
    with made.using_task("b"):
        assert made.action_space == spaces.Discrete(6)
        assert made.current is made.tasks[1]
        made.act(OBSERVATIONS, greedy=True)
    assert made.action_space == spaces.Discrete(2)
    assert made.current is made.tasks[0]
    assert made.trunk._modulations == list(made.tasks[0].modulations)
    assert (made.act(OBSERVATIONS, greedy=True) == before).all()


def test_unknown_tasks_are_rejected_and_the_task_in_use_stays():
    made = policy()
    with pytest.raises(ValueError, match="task 'c' is unknown to this agent; it knows: a, b"):
        made.use_task("c")
    with pytest.raises(ValueError, match="'c'"), made.using_task("c"):
        pass
    with pytest.raises(KeyError), made.using_task("b"):
        raise KeyError("inside")
    assert made.current is made.tasks[0]
    with pytest.raises(RuntimeError, match="call add_task and use_task first"):
        policy(tasks={}).act(OBSERVATIONS, greedy=True)
    with pytest.raises(UserError, match="actions of MultiBinary: expected a Discrete or a Box"):
        policy(tasks={"a": spaces.MultiBinary(3)})


def test_adding_a_task_changes_no_other_and_is_possible_once():
    made = policy()
    before, trunk = weights(made), made.trunk
    made.add_task("c", spaces.Discrete(3))
    assert made.current is made.tasks[0]
    assert made.trunk is trunk
    after = weights(made)
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    with pytest.raises(ValueError, match="task 'a' is already there: a, b, c"):
        made.add_task("a", spaces.Discrete(3))


# --- continuous actions


def test_continuous_actions_are_gaussian_and_clipped_to_their_bounds():
    box = spaces.Box(np.array([-0.1, -2], np.float32), np.array([0.1, 0.3], np.float32))
    made = policy(tasks={"a": spaces.Discrete(2), "b": box})
    assert not hasattr(made, "log_std")
    made.use_task("b")
    assert made.log_std is made.tasks[1].log_std
    head = made.head(made.trunk(torch.from_numpy(OBSERVATIONS)))
    assert isinstance(head, Normal)
    assert head.mean.shape == (50, 2)
    torch.testing.assert_close(head.stddev, torch.ones(50, 2))
    for greedy in (True, False):
        actions = made.act(OBSERVATIONS, greedy=greedy)
        assert actions.shape == (50, 2)
        assert ((box.low <= actions) & (actions <= box.high)).all()
    assert len(np.unique(made.act(OBSERVATIONS, greedy=False)[:, 1])) > 20  # clipped, so not all equal
    shaped = policy(tasks={"a": spaces.Box(-1, 1, (2, 3), np.float32)})
    assert shaped.action_net.out_features == 6
    assert shaped.act(OBSERVATIONS, greedy=False).shape == (50, 2, 3)


def test_images_are_divided_by_255():
    frames = spaces.Box(0, 255, (1, 36, 36), np.uint8)
    made = ContinualPolicy(frames, spaces.Discrete(2), lambda _: 1e-3, trunk=trunk_config())
    prepared = made.preprocess(torch.full((1, 1, 36, 36), 255, dtype=torch.uint8))
    assert prepared.dtype == torch.float32
    assert (prepared == 1).all()


def test_the_network_reads_vectors_from_memory_of_torch():
    """Where a matrix product's operand begins changes its rounding, and NumPy's arrays begin anywhere."""
    vectors = spaces.Box(-1, 1, (4,), np.float32)
    made = ContinualPolicy(vectors, spaces.Discrete(2), lambda _: 1e-3, trunk=trunk_config())
    shifted = np.zeros(9, dtype=np.float32)[1:].reshape(2, 4)
    assert shifted.ctypes.data % 64
    assert made.preprocess(torch.from_numpy(shifted)).data_ptr() % 64 == 0


# --- Adam


def trained(network, optimizer_class, steps=5):
    """The optimizer after some steps, and how often the hook behind each step was called."""
    optimizer = optimizer_class(network.parameters(), lr=1e-2, eps=1e-5, fused=True)
    calls = []
    optimizer.register_step_post_hook(lambda *_: calls.append(1))
    draws = torch.Generator().manual_seed(1)
    for _ in range(steps):
        optimizer.zero_grad()
        network(torch.randn(4, 5, generator=draws)).square().sum().backward()
        optimizer.grad_scale = torch.tensor(1.5)
        optimizer.step()
    return optimizer, len(calls)


@pytest.mark.parametrize("torch_first", [True, False])
def test_adam_equals_torchs_bit_for_bit(torch_first):
    ours = nn.Linear(5, 3)
    theirs = copy.deepcopy(ours)
    order = [(theirs, torch.optim.Adam), (ours, Adam)]
    done = {kind: trained(network, kind) for network, kind in (order if torch_first else order[::-1])}
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
    (mine, calls), (its, _) = done[Adam], done[torch.optim.Adam]
    assert calls == 5
    for a, b in zip(mine.state_dict()["state"].values(), its.state_dict()["state"].values(), strict=True):
        assert all(torch.equal(a[key], b[key]) for key in ("step", "exp_avg", "exp_avg_sq"))


def test_an_update_does_not_import_torchs_compiler():
    code = (
        "import sys, torch; from blip_rl.learner.adam import Adam\n"
        "weight = torch.nn.Parameter(torch.ones(3)); adam = Adam([weight], fused=True)\n"
        "weight.sum().backward(); adam.step(); adam.zero_grad()\n"
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("shape", [(), (2,), (2, 3, 5)])
def test_log_probabilities_of_actions_of_any_shape_are_those_of_the_collection(shape):
    made = policy(tasks={"a": spaces.Box(-1, 1, shape, np.float32)})
    observations = torch.from_numpy(OBSERVATIONS)
    rollout = Rollout(5, made.observation_space, made.action_space, n_envs=10)
    for step in range(5):
        of_step = observations[step * 10 : step * 10 + 10]
        with torch.no_grad():
            actions, values, log_probs = sample(made, rollout.store_observations(step, slice(None), of_step))
        rollout.store_actions(step, slice(None), actions, values, log_probs)
        rollout.add(np.zeros(10, np.float32), np.zeros(10, np.float32))
    rollout.finish(torch.zeros(10), np.zeros(10, bool))
    for into in (None, rollout.empty_minibatch(25)):
        for batch in rollout.minibatches(25, into):
            with torch.no_grad():
                _, now, entropy = evaluate_actions(made, batch.observations, batch.actions)
            assert now.shape == entropy.shape == (25,)
            torch.testing.assert_close(now, batch.log_probs)


def test_stable_baselines3s_own_methods_normalise_observations():
    made = policy(normalization=NormalizationConfig(normalize_observations=True))
    observations = torch.from_numpy(OBSERVATIONS)
    made.current.normalizer.update(observations * 7 + 3)
    _, values, _ = made(observations)
    torch.testing.assert_close(made.predict_values(observations), values.reshape(-1, 1))
    expected = made.head(made.extract_features(observations))
    torch.testing.assert_close(made.get_distribution(observations).distribution.logits, expected.logits)
