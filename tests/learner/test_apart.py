"""Learning apart: the shared trunk is unchanged, earlier tasks use it, and the copy is freed at the end."""

import copy
import inspect

import pytest
import torch
from safetensors.torch import load, save
from stable_baselines3.common.utils import set_random_seed

from blip_rl.agent_config import AgentConfig
from blip_rl.core.weights import copy_weights
from blip_rl.learner import base_ppo, cuda_graph
from blip_rl.learner.apart import LearnApart, build_method
from blip_rl.learner.trunk import Trunk
from blip_rl.methods.base import Method, MethodState, Network, parameter_bytes
from blip_rl.methods.finetune import Finetune
from tests.learner.apart_agents import (
    ENVIRONMENTS,
    FEW,
    METHODS,
    consolidate,
    inner_method,
    learn_apart,
    one_task,
    two_tasks,
)
from tests.learner.small_agents import agent_config, same
from tests.learner.tape import Tape, acted_out


def outputs(model, method, number, observations):
    """Return logits or means, and values, of the current policy on a task."""
    name = model.policy.task_names[number - 1]
    with torch.no_grad(), model.policy.using_task(name), method.playing(model.policy.trunk, number):
        features = model.policy.extract_features(observations)
        return model.policy.action_net(features), model.policy.critic(features)


def equal(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def through_a_file(state):
    return MethodState(load(save({name: t.contiguous() for name, t in state.tensors.items()})), state.values)


# --- which method a recipe means


def test_a_recipe_means_its_method_or_the_method_with_tasks_learned_apart():
    assert type(build_method(agent_config())) is Finetune
    section = agent_config().model_dump() | {"learning": "distil", "distil": {"start": "shared"}}
    method = build_method(AgentConfig.model_validate(section))
    assert type(method) is LearnApart
    assert type(method.inner) is Finetune


def test_every_hook_is_passed_on():
    """A hook that Method gains must not end at the wrapper."""
    hooks = {name for name, _ in inspect.getmembers(Method) if not name.startswith("_")}
    assert hooks - vars(LearnApart).keys() == {"Settings", "interleaved", "distillable"}


# --- the first task


@pytest.mark.parametrize("name", ["blip", "clear", "packnet"])
def test_a_first_task_that_is_not_learned_apart_is_the_methods_own(name):
    learned = []
    for wrap in (lambda method: method, lambda method: LearnApart(method, first_task=False)):
        torch.manual_seed(0)
        model, _ = one_task()  # a trunk and a rollout's games; its second task is this test's first
        method = wrap(inner_method(name))
        learn_apart(model, method)
        learned.append((copy_weights(model.policy), consolidate(model, method)))
    assert same(learned[0][0], learned[1][0])
    assert learned[0][1] == learned[1][1]


# --- while a task is learned apart


@pytest.mark.parametrize(("name", "kind"), [*((name, "vectors") for name in METHODS), ("blip", "frames")])
def test_a_task_learned_apart_leaves_the_shared_trunk_and_what_it_plays(name, kind):
    model, method = one_task(kind, name, modulation=True)
    seen = torch.as_tensor(model._last_obs)
    before = outputs(model, method, 1, seen)
    bits = method.frozen_bits()
    with model.protected_by(method):
        assert method.apart
        started = copy_weights(model.policy.trunk)
        shared = {name[7:]: t for name, t in method.state().tensors.items() if name.startswith("shared.")}
        assert not any(torch.equal(shared[key], started[key]) for key in started if key.endswith("weight"))
        model.learn(3 * 32, reset_num_timesteps=False)
        now = copy_weights(model.policy.trunk)
        assert not any(torch.equal(now[key], started[key]) for key in started)
        assert equal(outputs(model, method, 1, seen), before)
        assert same(copy_weights(model.policy.trunk), now), "the task's own weights are back"
        assert same({n[7:]: t for n, t in method.state().tensors.items() if n.startswith("shared.")}, shared)
        assert same(method.frozen_bits(), bits)


@pytest.mark.parametrize("name", ["blip", "clear", "gpm", "packnet"])
def test_learning_apart_is_learning_with_a_fresh_agent(name):
    """The method takes no part in it: the same weights as with no method at all."""
    model, method = one_task(name=name)
    plain, _ = one_task()
    plain.policy.load_task_state(model.policy.task_state())
    set_random_seed(5)
    learn_apart(model, method)
    set_random_seed(5)
    plain.policy.trunk.reset_parameters()
    learn_apart(plain, Finetune())
    assert same(copy_weights(model.policy), copy_weights(plain.policy))


@pytest.mark.parametrize("kind", ENVIRONMENTS)
def test_a_fresh_start_is_a_new_trunk_of_the_seed_and_a_shared_one_a_copy(kind):
    model, method = one_task(kind)
    trunk = model.policy.trunk
    tensors, shared = list(trunk.parameters()), copy_weights(trunk)
    torch.manual_seed(5)
    method.start_task(trunk)
    new = Trunk(model.observation_space, agent_config().trunk)
    torch.manual_seed(5)
    new.reset_parameters()
    assert same(copy_weights(trunk), copy_weights(new))
    assert all(a is b for a, b in zip(trunk.parameters(), tensors, strict=True))
    method.restore_shared(trunk)
    assert same(copy_weights(trunk), shared)
    assert not method.apart

    model, method = one_task(kind, start="shared")
    shared = copy_weights(model.policy.trunk)
    method.start_task(model.policy.trunk)
    assert method.apart
    assert same(copy_weights(model.policy.trunk), shared)


def test_a_task_learned_apart_cannot_be_consolidated():
    model, method = one_task()
    learn_apart(model, method)
    with pytest.raises(RuntimeError, match="distil it"):
        consolidate(model, method)


def test_a_task_not_learned_yet_is_played_with_the_trunk_as_it_is():
    model, method = one_task()
    learn_apart(model, method)
    before = copy_weights(model.policy.trunk)
    for number in (2, 3):
        with method.playing(model.policy.trunk, number):
            assert same(copy_weights(model.policy.trunk), before)


# --- state


@pytest.mark.parametrize("name", METHODS)
def test_the_state_has_the_shared_trunk_only_while_a_task_is_learned_apart(name):
    model, method = one_task(name=name)
    kept = method.state()
    assert not any(key.startswith("shared.") for key in kept.tensors)
    learn_apart(model, method)
    state = method.state()
    more = sum(tensor.nbytes for key, tensor in state.tensors.items() if key.startswith("shared."))
    assert more == parameter_bytes(model.policy.trunk)
    network = Network(model.policy.trunk, model.observation_space, (2, 2))
    assert all(method.state_tensors(network)[name].allows(t.dtype, t.shape) for name, t in state.tensors.items())
    assert method.describe(state) == method.inner.describe(kept)
    assert method.kept_bytes(network) == method.inner.kept_bytes(network)

    again = LearnApart(inner_method(name))
    again.load_state(through_a_file(state))
    assert again.state().values == state.values
    assert same(again.state().tensors, state.tensors)
    other = copy.deepcopy(model.policy.trunk)
    seen = torch.as_tensor(model._last_obs)
    assert equal(outputs(model, again, 1, seen), outputs(model, method, 1, seen)), "right after loading"
    again.resume_task(other)
    assert same(copy_weights(other), copy_weights(model.policy.trunk))
    assert same(again.state().tensors, state.tensors)
    assert same(again.frozen_bits(), method.frozen_bits())


def test_a_state_that_does_not_fit_is_refused():
    model, method = one_task()
    with pytest.raises(ValueError, match="learning = 'direct'"):
        LearnApart(Finetune()).load_state(Finetune().state())
    learn_apart(model, method)
    state = method.state()
    with pytest.raises(ValueError, match="0 tensors of the shared trunk with apart = True"):
        LearnApart(Finetune()).load_state(MethodState({}, state.values))
    another = LearnApart(Finetune())
    another.load_state(MethodState({"shared.fc1.weight": torch.zeros(2, 2)}, state.values))
    before = copy_weights(model.policy.trunk)
    for use in (another.resume_task, lambda trunk: another.playing(trunk, 1).__enter__()):
        with pytest.raises(ValueError, match="another network"):
            use(model.policy.trunk)
    assert same(copy_weights(model.policy.trunk), before)


# --- recorded updates


@pytest.mark.parametrize("name", ["blip", "clear"])
def test_learning_apart_is_recorded_whatever_the_method(name, monkeypatch):
    acted_out(monkeypatch, cuda_graph)
    monkeypatch.setattr(base_ppo, "can_capture", lambda device: True)
    collector = base_ppo.Collector
    monkeypatch.setattr(base_ppo, "Collector", lambda env, policy, capture: collector(env, policy, capture=False))
    learned = []
    for capture in ("off", "auto"):
        torch.manual_seed(0)
        model = two_tasks(name=name, settings=FEW, compute={"capture": capture})[0]
        learned.append(copy_weights(model.policy))
    assert same(*learned)
    assert len(Tape.made) == 1 + (name == "blip"), "CLEAR's first task is learned directly, and never recorded"
