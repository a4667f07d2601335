"""Learning apart: the shared trunk is unchanged, earlier tasks use it, and the copy is freed at the end."""

import copy
import inspect

import pytest
import torch
from stable_baselines3.common.utils import set_random_seed

from blip_rl.agent_config import AgentConfig
from blip_rl.core.weights import copy_weights, set_weights
from blip_rl.learner.separate_trunk import LearnApart, build_method
from blip_rl.learner.trunk import Trunk
from blip_rl.methods.base import Method, MethodState, Network, parameter_bytes
from blip_rl.methods.finetune import Finetune
from tests.learner.emulated_graphs import EmulatedGraph, emulate_cuda_graphs
from tests.learner.separate_trunk_agents import (
    FEW,
    METHODS,
    consolidate,
    inner_method,
    learn_apart,
    one_task,
    two_tasks,
)
from tests.learner.small_agents import ENVIRONMENTS, agent, agent_config, same, through_a_file


def outputs(model, method, number, observations):
    """Return logits or means, and values, of the current policy on a task."""
    name = model.policy.task_names[number - 1]
    with torch.no_grad(), model.policy.using_task(name), method.playing(model.policy.trunk, number):
        features = model.policy.extract_features(observations)
        return model.policy.action_net(features), model.policy.critic(features)


def equal(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


# --- methods of recipes


def test_the_recipes_learning_setting_selects_the_wrapper():
    assert type(build_method(agent_config())) is Finetune
    section = agent_config().model_dump() | {"learning": "distil", "distil": {"start": "shared"}}
    method = build_method(AgentConfig.model_validate(section))
    assert type(method) is LearnApart
    assert type(method.inner) is Finetune


def test_every_hook_of_method_is_delegated():
    """A hook added to Method must be delegated here too."""
    hooks = {name for name, _ in inspect.getmembers(Method) if not name.startswith("_")}
    assert hooks - vars(LearnApart).keys() == {
        "Settings",
        "interleaved",
        "distillable",
        "no_visits",
        "tasks_setting",
        "task",
        "task_blind",
    }


# --- the first task


@pytest.mark.parametrize("name", ["blip", "clear", "packnet"])
def test_without_first_task_the_first_task_is_learned_as_without_the_wrapper(name):
    learned = []
    for wrap in (lambda method: method, lambda method: LearnApart(method, first_task=False)):
        torch.manual_seed(0)
        model, _ = one_task()  # its second task is the first of this method
        method = wrap(inner_method(name))
        learn_apart(model, method)
        learned.append((copy_weights(model.policy), consolidate(model, method)))
    assert same(learned[0][0], learned[1][0])
    assert learned[0][1] == learned[1][1]


# --- while a task is learned apart


@pytest.mark.parametrize(("name", "kind"), [*((name, "vectors") for name in METHODS), ("blip", "frames")])
def test_learning_apart_changes_neither_the_shared_trunk_nor_earlier_tasks(name, kind):
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
def test_learning_apart_equals_fine_tuning_a_new_trunk(name):
    """No hook of the wrapped method acts: the weights equal those of fine-tuning."""
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
def test_start_fresh_draws_a_new_trunk_and_start_shared_copies_the_shared_one(kind):
    model, method = one_task(kind)
    trunk = model.policy.trunk
    tensors, shared = list(trunk.parameters()), copy_weights(trunk)
    torch.manual_seed(5)
    method.task = 2
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


@pytest.mark.parametrize("kind", ENVIRONMENTS)
def test_start_previous_continues_from_the_trunk_that_the_previous_task_was_learned_with(kind):
    model, method = one_task(kind, start="previous")
    trunk = model.policy.trunk
    shared = copy_weights(trunk)
    learn_apart(model, method)
    learned = copy_weights(trunk)
    assert not same(learned, shared)
    method.restore_shared(trunk)
    assert same(copy_weights(trunk), shared)
    consolidate(model, method)
    again = LearnApart(inner_method("finetune"), "previous", first_task=False)  # as in a run that was stopped here
    state = method.state()
    again.load_state(MethodState(through_a_file(state.tensors), state.values))
    for each in (method, again):
        set_weights(trunk, shared)
        each.task = 3
        each.start_task(trunk)
        assert same(copy_weights(trunk), learned)
        assert not any(key.startswith("previous.") for key in each.state().tensors), "the trunk has them now"
        each.restore_shared(trunk)
        assert same(copy_weights(trunk), shared)


def test_start_previous_learns_a_second_task_as_fine_tuning_does_after_the_first():
    """The separate trunks are then a network that is fine-tuned from task to task."""
    model, method = one_task(start="previous")
    plain, _ = one_task()
    plain.policy.load_task_state(model.policy.task_state())
    set_weights(plain.policy.trunk, copy_weights(model.policy.trunk))
    for each, protection in ((model, method), (plain, Finetune())):
        set_random_seed(5)
        learn_apart(each, protection)
    assert same(copy_weights(model.policy), copy_weights(plain.policy))


def test_a_previous_trunk_of_another_network_is_refused():
    model, method = one_task(start="previous")
    learn_apart(model, method)
    method.restore_shared(model.policy.trunk)
    consolidate(model, method)
    state, before = method.state(), copy_weights(model.policy.trunk)
    name = next(key for key in state.tensors if key.startswith("previous."))
    another = LearnApart(Finetune(), "previous")
    another.load_state(MethodState(state.tensors | {name: torch.zeros(2, 2)}, state.values))
    with pytest.raises(ValueError, match="another network"):
        another.start_task(model.policy.trunk)
    assert same(copy_weights(model.policy.trunk), before)


def test_consolidation_before_distillation_raises():
    model, method = one_task()
    learn_apart(model, method)
    with pytest.raises(RuntimeError, match="distil it"):
        consolidate(model, method)


def test_unfinished_tasks_are_played_with_the_tasks_own_trunk():
    model, method = one_task()
    learn_apart(model, method)
    before = copy_weights(model.policy.trunk)
    for number in (2, 3):
        with method.playing(model.policy.trunk, number):
            assert same(copy_weights(model.policy.trunk), before)


# --- state


def test_start_previous_keeps_one_trunk_between_tasks():
    model, method = one_task(start="previous")
    learn_apart(model, method)
    method.restore_shared(model.policy.trunk)
    consolidate(model, method)
    network = Network(model.policy.trunk, model.observation_space, (2, 2))
    state = method.state()
    kept = sum(tensor.nbytes for tensor in state.tensors.values())
    assert kept == method.kept_bytes(network) == parameter_bytes(model.policy.trunk)  # fine-tuning itself keeps nothing
    assert all(method.state_tensors(network)[name].allows(t.dtype, t.shape) for name, t in state.tensors.items())


@pytest.mark.parametrize("name", METHODS)
def test_the_state_holds_the_shared_trunk_only_while_a_task_is_learned_apart(name):
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
    again.load_state(MethodState(through_a_file(state.tensors), state.values))
    assert again.state().values == state.values
    assert same(again.state().tensors, state.tensors)
    other = copy.deepcopy(model.policy.trunk)
    seen = torch.as_tensor(model._last_obs)
    assert equal(outputs(model, again, 1, seen), outputs(model, method, 1, seen)), "right after loading"
    again.resume_task(other)
    assert same(copy_weights(other), copy_weights(model.policy.trunk))
    assert same(again.state().tensors, state.tensors)
    assert same(again.frozen_bits(), method.frozen_bits())


def test_states_that_do_not_fit_are_rejected():
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


# --- captured updates


@pytest.mark.parametrize("name", ["blip", "clear"])
def test_updates_are_captured_while_a_task_is_learned_apart(name, monkeypatch):
    emulate_cuda_graphs(monkeypatch, actions=False)
    learned = []
    for capture in ("off", "auto"):
        torch.manual_seed(0)
        model = two_tasks(name=name, settings=FEW, compute={"capture": capture})[0]
        learned.append(copy_weights(model.policy))
    assert same(*learned)
    # The first task is learned directly, which CLEAR does not allow to capture.
    assert len(EmulatedGraph.captured) == 1 + (name == "blip")


@pytest.mark.parametrize("start", ["fresh", "previous", "shared"])
def test_teachers_do_not_depend_on_the_method(start):
    """BLIP puts the shared weights on its grid when a task starts; the task's own trunk does not learn from there."""
    found = []
    for name in ("ewc", "blip"):
        model, method = agent(), LearnApart(inner_method(name), start)
        set_random_seed(5)
        learn_apart(model, method)
        found.append(copy_weights(model.policy))
    assert same(*found)
