"""The contract of all methods: each test runs for every file of ``blip_rl/methods``, with its recipe's settings.

Settings that give a method more state are variants, and must keep the contract too.
"""

import ast
import copy
import json
import math
import tomllib
from collections.abc import Mapping
from contextlib import ExitStack
from itertools import product
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import pytest
import torch
from gymnasium.spaces import Box
from safetensors.torch import load, save
from torch import nn
from torch.distributions import Categorical

import blip_rl
from blip_rl.methods import make_method, method_names
from blip_rl.methods.attach import attached
from blip_rl.methods.base import Method, MethodState, Network
from blip_rl.methods.finetune import Finetune
from blip_rl.recipes.files import recipe_folder
from tests.methods.small_tasks import TRUNKS, Task, copies, mlp, three_tasks

VARIANTS = {
    "finetune with shrink and perturb": ("finetune", {"shrink_and_perturb": 0.1, "soft_shrink_and_perturb": 1e-4}),
}
methods = pytest.mark.parametrize("name", [*method_names(), *VARIANTS])
cases = pytest.mark.parametrize(
    ("name", "kind"), [*product(method_names(), TRUNKS), *((variant, "mlp") for variant in VARIANTS)]
)
UPDATES = 10


class FirstTask(NamedTuple):
    """How a method's first task may differ from fine-tuning's: everything else is the same to the bit."""

    reason: str
    settings: Mapping = MappingProxyType({})
    until: float = 1.0  # share of the task's steps after which the weights are compared


DIFFERENCES = {
    "blip": FirstTask("its forward pass sees weights on a grid, Eq. 3: without it", {"quantize_forward": False}),
    "finetune with shrink and perturb": FirstTask("softly at every step: without it", {"soft_shrink_and_perturb": 0}),
    "packnet": FirstTask("it prunes towards the end of the task: before that", until=0.5),
}


def from_recipe(name, **settings):
    """A method as ``blip-rl train --agent NAME`` builds it, or a variant of it."""
    method, added = VARIANTS.get(name, (name, {}))
    path = recipe_folder("agents") / f"{method.replace('_', '-')}.toml"
    return make_method(tomllib.loads(path.read_text(encoding="utf-8"))["method"] | added | settings)


class World:
    """A trunk and three tasks with 4, 6 and 3 actions, learned as the agent does it."""

    def __init__(self, kind):
        self.trunk, self.tasks = TRUNKS[kind][0](), three_tasks(kind)

    def outputs(self, number, observations):
        task, features = self.tasks[number - 1], self.trunk(observations)
        return Categorical(logits=task.head(features)), task.values(features)

    def optimizer(self, number):
        """A fresh one over the trunk and the task's own part; other tasks' parts rest."""
        for index, task in enumerate(self.tasks, start=1):
            for module in (task.head, task.critic):
                module.requires_grad_(index == number).zero_grad()
        self.trunk.zero_grad()
        task = self.tasks[number - 1]
        return torch.optim.Adam([*self.trunk.parameters(), *task.head.parameters(), *task.critic.parameters()], lr=0.02)

    def update(self, method, number, optimizer):
        task = self.tasks[number - 1]
        loss = task.loss(self.trunk) + 0.1 * (task.values(self.trunk(task.observations)) - 1).square().mean()
        extra = method.loss(self.outputs)
        optimizer.zero_grad()
        (loss if extra is None else loss + extra).backward()
        nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 0.5)
        optimizer.step()

    def train(self, method, number, until=1.0):
        """Learn one task up to a share of its steps; returns the optimizer."""
        optimizer = self.optimizer(number)
        with attached(method, self.trunk, optimizer):
            for step in range(1, round(UPDATES * until) + 1):
                method.at_progress(step / UPDATES)
                self.update(method, number, optimizer)
        return optimizer

    def learn(self, method, number):
        """Learn one task and consolidate it; returns the method's figures."""
        torch.manual_seed(number)  # for a method that draws from the global generator
        self.train(method, number)
        return self.consolidate(method, number)

    def consolidate(self, method, number):
        return method.end_task(self.tasks[number - 1].finished(self.trunk, samples=method.samples_wanted))

    def copy(self):
        return copy.deepcopy(self)

    def weights(self):
        """Everything that is learned, trunk, heads and critics."""
        own = {
            f"{index}.{part}.{name}": parameter.detach().clone()
            for index, task in enumerate(self.tasks)
            for part, module in (("head", task.head), ("critic", task.critic))
            for name, parameter in module.named_parameters()
        }
        return copies(self.trunk) | own


def same(one, other):
    """Equal to the bit: names, types and values."""
    return one.keys() == other.keys() and all(
        value.dtype == other[name].dtype and torch.equal(value, other[name]) for name, value in one.items()
    )


def through_a_file(state):
    """The state as a checkpoint keeps it: safetensors and JSON."""
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in state.tensors.items()}
    return MethodState(load(save(contiguous)), json.loads(json.dumps(state.values)))


def hooks(trunk, optimizer):
    """Every hook on the trunk's layers and parameters and on the optimizer."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    found = [hook for module in trunk.modules() for kind in kinds for hook in getattr(module, kind).values()]
    for parameter in trunk.parameters():
        for kind in ("_backward_hooks", "_post_accumulate_grad_hooks"):
            found += list((getattr(parameter, kind) or {}).values())
    return (
        found + list(optimizer._optimizer_step_post_hooks.values()) + list(optimizer._optimizer_step_pre_hooks.values())
    )


def layout(trunk):
    """Identity and strides of every parameter."""
    return [(id(parameter), parameter.stride()) for parameter in trunk.parameters()]


def fail_while_learning(world, method, number, optimizer):
    with attached(method, world.trunk, optimizer):
        method.at_progress(0.1)
        world.update(method, number, optimizer)
        assert hooks(world.trunk, optimizer)  # else finding none afterwards would say nothing
        raise KeyError("while learning")


# --- recipes


@pytest.mark.parametrize("name", method_names())
def test_every_method_has_a_recipe_of_its_name(name):
    path = recipe_folder("agents") / f"{name.replace('_', '-')}.toml"
    assert path.is_file(), f"agents/{path.name} is missing: a recipe for the method {name!r}"
    assert tomllib.loads(path.read_text(encoding="utf-8"))["method"]["name"].replace("-", "_") == name
    assert type(from_recipe(name)).__module__ == f"blip_rl.methods.{name}"


# --- hooks


@cases
def test_nothing_stays_attached(name, kind):
    """After the first task, after a later one, when there is something to protect, and after an error in either."""
    world, method = World(kind), from_recipe(name)
    for number in (1, 2):
        optimizer = world.optimizer(number)
        with pytest.raises(KeyError):
            fail_while_learning(world, method, number, optimizer)
        assert not hooks(world.trunk, optimizer)
        optimizer = world.train(method, number)
        world.consolidate(method, number)
        assert not hooks(world.trunk, optimizer)


# --- the first task


@cases
def test_the_first_task_is_fine_tuning(name, kind):
    difference = DIFFERENCES.get(name) or DIFFERENCES.get(VARIANTS.get(name, (name,))[0], FirstTask("none"))
    world = World(kind)
    plain = world.copy()
    world.train(from_recipe(name, **difference.settings), 1, difference.until)
    plain.train(Finetune(), 1, difference.until)
    assert same(world.weights(), plain.weights())


@pytest.mark.parametrize("name", DIFFERENCES)
def test_the_exceptions_are_needed(name):
    """A difference that is no longer there must leave the list."""
    if name not in [*method_names(), *VARIANTS]:
        pytest.skip(f"no method {name} yet")
    world = World("mlp")
    plain = world.copy()
    world.train(from_recipe(name), 1)
    plain.train(Finetune(), 1)
    assert not same(world.weights(), plain.weights())


# --- several tasks


@cases
def test_three_tasks_with_different_numbers_of_actions(name, kind):
    """Each one learns something of its own, and the figures can be logged."""
    world, method = World(kind), from_recipe(name)
    for number, task in enumerate(world.tasks, start=1):
        before = task.loss(world.trunk).item()
        figures = world.learn(method, number)
        assert all(isinstance(figure, float) and math.isfinite(figure) for figure in figures.values())
        with method.playing(world.trunk, number):
            assert task.loss(world.trunk).item() < before
        frozen = method.frozen_bits()
        assert not frozen or {n: b.shape for n, b in frozen.items()} == {
            n: p.shape for n, p in world.trunk.named_parameters()
        }
        assert all(bits.dtype == torch.uint8 and bits.max() <= method.total_bits for bits in frozen.values())


# --- state


@cases
def test_the_state_round_trips_bit_for_bit(name, kind):
    """Before the first task, and after one and two; the state is a copy that later training does not change."""
    world, method, taken = World(kind), from_recipe(name), []
    for tasks in (0, 1, 2):
        saved = method.state()
        in_a_file = through_a_file(saved)
        loaded = from_recipe(name)
        loaded.load_state(in_a_file)
        again = loaded.state()
        assert again.values == saved.values
        assert same(again.tensors, saved.tensors)
        taken.append((saved, in_a_file))
        world.learn(method, tasks + 1)
    for saved, in_a_file in taken:
        assert saved.values == in_a_file.values
        assert same(saved.tensors, in_a_file.tensors)


@cases
def test_training_after_a_round_trip_equals_training_without(name, kind):
    """Before every task, the first too: weights, figures and state."""
    world, method = World(kind), from_recipe(name)
    for number in (1, 2, 3):
        other, loaded = world.copy(), from_recipe(name)
        loaded.load_state(through_a_file(method.state()))
        assert loaded.samples_wanted == method.samples_wanted
        figures = world.learn(method, number)
        assert other.learn(loaded, number) == figures
        assert same(other.weights(), world.weights())
        assert loaded.state().values == method.state().values
        assert same(loaded.state().tensors, method.state().tensors)


@cases
@pytest.mark.parametrize("left_after", [0, 4, UPDATES - 1, UPDATES])
@pytest.mark.parametrize("number", [1, 2])
def test_a_resumed_task_equals_one_without_interruption(name, kind, number, left_after):
    """At its beginning, before and after PackNet's pruning, and between learning and consolidation."""
    world, method = World(kind), from_recipe(name)
    if number == 2:
        world.learn(method, 1)
    optimizer, kept = world.optimizer(number), None
    torch.manual_seed(7)
    with attached(method, world.trunk, optimizer):
        for step in range(UPDATES + 1):
            if step == left_after:
                kept = world.copy(), copy.deepcopy(optimizer.state_dict()), method.state(), torch.get_rng_state()
            if step < UPDATES:
                method.at_progress((step + 1) / UPDATES)
                world.update(method, number, optimizer)
    figures = world.consolidate(method, number)

    other, moments, state, random = kept
    resumed, again = from_recipe(name), other.optimizer(number)
    again.load_state_dict(moments)
    resumed.load_state(through_a_file(state))
    assert resumed.state().values == state.values
    assert same(resumed.state().tensors, state.tensors)
    torch.set_rng_state(random)
    with attached(resumed, other.trunk, again, resume=True):
        for step in range(left_after, UPDATES):
            resumed.at_progress((step + 1) / UPDATES)
            other.update(resumed, number, again)
    assert other.consolidate(resumed, number) == figures
    assert same(other.weights(), world.weights())
    assert resumed.state().values == method.state().values
    assert same(resumed.state().tensors, method.state().tensors)


@cases
def test_the_state_has_the_tensors_that_the_method_announces(name, kind):
    """Before the first task, in the middle of one, and after each; on a trunk without memory too."""
    world, method = World(kind), from_recipe(name)
    shape, outputs = TRUNKS[kind][1], tuple(task.actions for task in world.tasks)
    outline = Network(copy.deepcopy(world.trunk).to("meta"), Box(-1, 1, shape), outputs)
    states = [method.state()]
    for number in (1, 2, 3):
        with attached(method, world.trunk, world.optimizer(number)):
            method.at_progress(1.0)
            states.append(method.state())
        world.consolidate(method, number)
        states.append(method.state())
    announced = method.state_tensors(outline)
    for state in states:
        for key, tensor in state.tensors.items():
            assert announced[key].allows(tensor.dtype, tuple(tensor.shape)), key
            assert not announced[key].allows(torch.float16, tuple(tensor.shape))
            assert not announced[key].allows(tensor.dtype, (*tensor.shape[:-1], 10**6))
        lines = method.describe(MethodState(state.tensors, json.loads(json.dumps(state.values))))
        assert all(isinstance(line, str) and line.isprintable() for line in lines)


def kinds_of(name):
    """The names of a method's tensors without those of parameters and tasks: ``.owner``, ``.basis``, ``draws``, …."""
    network = Network(World("mlp").trunk, Box(-1, 1, (5,)), (4,))
    owners = [*network.parameters(), "task1"]
    return {
        next((key.removeprefix(owner) for owner in owners if key.startswith(owner)), key)
        for key in from_recipe(name).state_tensors(network)
    }


@methods
def test_nothing_outside_the_methods_names_their_tensors(name):
    """Frozen bits and centres are the exception: the report draws and audits them."""
    kinds = kinds_of(name) - {".frozen_bits", ".centre"}
    package = Path(blip_rl.__file__).parent
    shared = {package / "core", package / "methods"}  # core/penalty.py keeps the tensors of several methods
    for path in package.rglob("*.py"):
        if shared & set(path.parents):
            continue
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        texts = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
        named = {text for text in texts if any(text.endswith(kind) for kind in kinds)}
        assert not {text for text in named if " " not in text}, path


OTHER_TRUNKS = {
    "a layer less": (lambda: nn.Sequential(nn.Linear(5, 12)), r"state for '2\.\S+', which this trunk does not have"),
    "a layer more": (lambda: nn.Sequential(*mlp(), nn.Linear(8, 8)), r"the saved state has no '(\d\.)?4\.weight"),
    "other sizes": (lambda: nn.Sequential(nn.Linear(6, 13), nn.Tanh(), nn.Linear(13, 9)), r"' (is|has frames of) \("),
}


@methods
@pytest.mark.parametrize(("build", "message"), OTHER_TRUNKS.values(), ids=OTHER_TRUNKS.keys())
def test_state_of_another_network_is_refused_and_changes_nothing(name, build, message):
    world, method = World("mlp"), from_recipe(name)
    world.learn(method, 1)
    if not method.state().tensors or (name == "clear" and "frames" not in message):
        return  # no tensors to compare, or CLEAR's frames, which fit any trunk with the same input
    other, loaded = build(), from_recipe(name)
    before = copies(other)
    loaded.load_state(method.state())
    for _ in range(2):  # a refusal must not use the state up
        with pytest.raises(ValueError, match=message):
            loaded.start_task(other)
    if type(loaded).playing is not Method.playing:
        with pytest.raises(ValueError, match=message), loaded.playing(other, 1):
            pass
    assert same(copies(other), before)


@pytest.mark.parametrize("name", ["blip", "packnet", "single"])
def test_end_task_without_start_task_is_refused(name):
    world = World("mlp")
    with pytest.raises(RuntimeError, match="end_task before start_task"):
        world.consolidate(from_recipe(name), 1)


# --- playing


@cases
def test_playing_restores_the_trunk_bit_for_bit(name, kind):
    """While the second task is being learned, after an error, and on another trunk with a state just loaded."""
    world, method = World(kind), from_recipe(name)
    world.learn(method, 1)
    optimizer = world.optimizer(2)
    with attached(method, world.trunk, optimizer):
        method.at_progress(0.1)
        world.update(method, 2, optimizer)
        before, identities, played = copies(world.trunk), layout(world.trunk), {}
        for task in (1, 2, 3):
            with method.playing(world.trunk, task):
                played[task] = world.outputs(task, world.tasks[task - 1].observations)[0].logits
            with pytest.raises(KeyError), method.playing(world.trunk, task):
                raise KeyError("while playing")
            assert same(copies(world.trunk), before)
        assert layout(world.trunk) == identities
    other, loaded = world.copy(), from_recipe(name)
    loaded.load_state(through_a_file(method.state()))
    for task in (1, 2, 3):
        with loaded.playing(other.trunk, task):
            logits = other.outputs(task, other.tasks[task - 1].observations)[0].logits
        assert torch.equal(logits, played[task])
        assert same(copies(other.trunk), before)


@cases
def test_playing_does_not_disturb_training(name, kind):
    """Playing in the middle of a task does not change later training."""
    world, method = World(kind), from_recipe(name)
    world.learn(method, 1)
    other, watched = world.copy(), from_recipe(name)
    watched.load_state(method.state())
    optimizers = world.optimizer(2), other.optimizer(2)
    pairs = ((world, method, optimizers[0]), (other, watched, optimizers[1]))
    with ExitStack() as learning:
        for each, theirs, optimizer in pairs:
            torch.manual_seed(0)  # for a method that draws when a task starts
            learning.enter_context(attached(theirs, each.trunk, optimizer))
        for step in range(1, UPDATES + 1):
            for each, theirs, optimizer in pairs:
                torch.manual_seed(step)
                theirs.at_progress(step / UPDATES)
                each.update(theirs, 2, optimizer)
            for task in (1, 2, 3):
                with watched.playing(other.trunk, task), torch.no_grad():
                    other.outputs(task, other.tasks[task - 1].observations)
    assert same(world.weights(), other.weights())


def test_a_task_of_the_small_world_has_what_the_agents_have():
    """So that a method that needs a critic or few samples meets them here."""
    task, trunk = Task((5,), seed=1), TRUNKS["mlp"][0]()
    finished = task.finished(trunk, samples=7)
    features = trunk(finished.observations)
    assert finished.values(finished.observations).shape == (7,)
    assert finished.head(features).shape == (7, 4)
    assert len(task.finished(trunk, samples=0).observations) == 0
