"""``protect_module``: methods applied to plain PyTorch modules and optimizers."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.distributions import Normal
from torch.utils.data import DataLoader, TensorDataset

import blip_rl as br
from blip_rl.core.fisher import diagonal_fisher
from blip_rl.methods import make_method
from blip_rl.methods.attach import attached
from blip_rl.methods.base import FinishedTask, Method, MethodState
from tests.methods.small_tasks import TRUNKS, Task, bounds, copies, inside, mlp, on_grid

DOCS = Path(__file__).parents[1] / "docs"
OPTIMIZERS = {
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=0.02),
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=0.01),
}


class Recording(Method):
    """Stores what ``end_task`` gets, and whether the trunk was training then."""

    def __init__(self, samples=10):
        super().__init__()
        self.samples_wanted_here, self.finished, self.training = samples, [], None

    @property
    def samples_wanted(self):
        return self.samples_wanted_here

    def end_task(self, finished):
        self.training = [module.training for module in finished.trunk.modules()]
        self.finished.append(finished)
        return {"seen": len(finished.observations)}


def blip(**settings):
    return br.Blip(**{"first_task_bits": 4, "fisher_samples": 64} | settings)


def learn(method, trunk, task, make_optimizer=OPTIMIZERS["adam"], steps=20, watch=lambda: None):
    optimizer = make_optimizer([*trunk.parameters(), *task.head.parameters()])
    with br.protect_module(trunk, optimizer, method) as guard:
        for _ in range(steps):
            optimizer.zero_grad()
            task.loss(trunk).backward()
            optimizer.step()
            watch()
        metrics = guard.end_task([task.observations], task.head)
    assert not optimizer._optimizer_step_post_hooks
    assert not any(parameter._post_accumulate_grad_hooks for parameter in trunk.parameters())
    return metrics


def blank(trunk=None, optimizer=None, method=None):
    """A block that trains nothing."""
    trunk = mlp() if trunk is None else trunk
    optimizer = optimizer or torch.optim.SGD(trunk.parameters(), lr=0.1)
    return br.protect_module(trunk, optimizer, method or blip())


@pytest.mark.parametrize("make_optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("kind", TRUNKS)
def test_weights_stay_in_the_intervals_of_earlier_tasks(kind, make_optimizer):
    (make_trunk, shape), method = TRUNKS[kind], blip()
    trunk = make_trunk()
    metrics = learn(method, trunk, Task(shape, seed=1), make_optimizer)
    assert metrics["informed_bits"] == pytest.approx(4, abs=0.1)
    intervals, before, held = list(method.intervals().values()), copies(trunk), []
    watch = lambda: held.append(inside(trunk, intervals) and on_grid(trunk, 20))  # noqa: E731
    learn(method, trunk, Task(shape, seed=2), make_optimizer, watch=watch)
    assert held == [True] * 20
    assert any(not torch.equal(before[name], weight) for name, weight in copies(trunk).items())
    assert method.tasks_seen == 2


@pytest.mark.parametrize("name", ["blip", "ewc", "ewc-online", "l2", "gpm", "sgp", "freeze", "finetune"])
def test_weights_and_state_equal_those_of_our_own_loop(name):
    trunks, states = [], []
    for protected in (True, False):
        torch.manual_seed(0)
        method = blip() if name == "blip" else make_method({"name": name})
        trunk, tasks = mlp(), [Task((5,), seed=1), Task((5,), seed=2)]
        for task in tasks:
            if protected:
                learn(method, trunk, task)
                continue
            optimizer = OPTIMIZERS["adam"]([*trunk.parameters(), *task.head.parameters()])
            with attached(method, trunk, optimizer):
                for _ in range(20):
                    optimizer.zero_grad()
                    task.loss(trunk).backward()
                    optimizer.step()
                samples, generator = task.observations[: method.samples_wanted], torch.Generator().manual_seed(0)
                method.end_task(FinishedTask(trunk, task.head, samples, lambda x: x, generator))
        trunks.append(copies(trunk))
        states.append(method.state())
    assert all(torch.equal(trunks[0][key], trunks[1][key]) for key in trunks[1])
    assert states[0].values == states[1].values
    assert all(torch.equal(states[0].tensors[key], states[1].tensors[key]) for key in states[1].tensors)


def test_a_saved_state_continues_with_the_same_weights(tmp_path):
    first, second = Task((5,), seed=1), Task((5,), seed=2)
    trunk, method = mlp(), blip()
    learn(method, trunk, first)
    state = method.state()
    torch.save({"trunk": trunk.state_dict(), "tensors": state.tensors, "values": state.values}, tmp_path / "task.pt")
    head = {name: weight.clone() for name, weight in second.head.state_dict().items()}
    learn(method, trunk, second)

    saved, other, loaded = torch.load(tmp_path / "task.pt"), mlp(), blip()
    other.load_state_dict(saved["trunk"])
    loaded.load_state(MethodState(saved["tensors"], saved["values"]))
    second.head.load_state_dict(head)
    learn(loaded, other, second)
    assert all(torch.equal(weight, copies(trunk)[name]) for name, weight in copies(other).items())


def test_weights_loaded_before_end_task_get_into_their_intervals():
    trunk, method = mlp(), blip()
    with blank(trunk, method=method) as guard:
        with torch.no_grad():
            trunk[0].weight.fill_(100.0)
        guard.end_task([torch.randn(64, 5)], nn.Linear(8, 3))
    limit = bounds(trunk)["0.weight"]
    assert limit * 0.99 < trunk[0].weight.max() < limit


# --- what the method gets


def test_labels_are_drawn_from_the_model_and_not_read():
    inputs, head, trunk = torch.randn(40, 5), nn.Linear(8, 4), mlp()
    found = []
    for labels in (torch.zeros(40), torch.full((40,), float("nan"))):
        method = make_method({"name": "ewc"})
        with blank(trunk, method=method) as guard:
            guard.end_task(DataLoader(TensorDataset(inputs, labels), batch_size=7), head)
        found.append(method.state().tensors["0.weight.fisher"])
    expected = diagonal_fisher(trunk, head, inputs, generator=torch.Generator().manual_seed(0))
    assert torch.equal(found[0], found[1])
    torch.testing.assert_close(found[0], expected["0.weight"])


def test_exact_sums_over_all_classes():
    inputs, head, trunk = torch.randn(40, 5), nn.Linear(8, 4), mlp()
    method = make_method({"name": "ewc", "fisher_expectation": "exact"})
    with blank(trunk, method=method) as guard:
        guard.end_task([inputs], head)
    expected = diagonal_fisher(trunk, head, inputs, expectation="exact")
    torch.testing.assert_close(method.state().tensors["2.weight.fisher"], expected["2.weight"])


def test_a_head_may_return_a_distribution():
    method = blip()
    with blank(method=method) as guard:
        guard.end_task([torch.randn(64, 5)], lambda features: Normal(features[:, :2], 1.0))
    assert method.mean_frozen_bits() > 0


def test_only_the_samples_that_are_wanted_are_read():
    read = []

    def loader():
        for number in range(5):
            read.append(number)
            yield torch.full((4, 5), float(number)), None

    method = Recording(samples=10)
    with blank(method=method) as guard:
        assert guard.end_task(loader(), nn.Linear(8, 2)) == {"seen": 10}
    assert read == [0, 1, 2]
    assert method.finished[0].observations[:, 0].tolist() == [0.0] * 4 + [1.0] * 4 + [2.0] * 2
    with blank(method=Recording(samples=0)) as guard:
        assert guard.end_task(loader(), nn.Linear(8, 2)) == {"seen": 0}
    assert read == [0, 1, 2]


def test_modules_are_in_evaluation_mode_while_a_task_is_consolidated():
    trunk, head, method = nn.Sequential(mlp(), nn.Dropout()), nn.Sequential(nn.Dropout(), nn.Linear(8, 2)), Recording()
    trunk[0].eval()  # part of it was already
    modes = [module.training for module in trunk.modules()]
    with blank(trunk, method=method) as guard:
        guard.end_task([torch.randn(10, 5)], head)
    assert not any(method.training)
    assert [module.training for module in trunk.modules()] == modes
    assert all(module.training for module in head.modules())


# --- what is refused


@pytest.mark.parametrize(("name", "needs"), [("clear", "loss"), ("packnet", "playing"), ("single", "playing")])
def test_methods_of_our_own_loop_are_refused(name, needs):
    with pytest.raises(ValueError, match=rf"needs '{needs}', which only blip-rl calls: expected a method"):
        blank(method=make_method({"name": name})).__enter__()
    with pytest.raises(ValueError, match=r"Multitask needs 'all tasks at once'"):
        blank(method=make_method({"name": "multitask"})).__enter__()


def frozen():
    trunk = mlp()
    trunk[0].requires_grad_(False)
    return trunk


TRUNKS_REFUSED = {
    r"'1' is a BatchNorm1d, whose statistics are of a batch or overwritten": lambda: nn.Sequential(
        nn.Linear(5, 8), nn.BatchNorm1d(8)
    ),
    r"'0' is a BatchNorm1d": lambda: nn.Sequential(
        nn.BatchNorm1d(5, affine=False, track_running_stats=False), nn.Linear(5, 8)
    ),
    r"'1' is a InstanceNorm2d": lambda: nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.InstanceNorm2d(2, track_running_stats=True)
    ),
    r"'1' is a LayerNorm: .* know nn.Linear and nn.Conv2d": lambda: nn.Sequential(nn.Linear(5, 8), nn.LayerNorm(8)),
    r"'0' is a Embedding": lambda: nn.Sequential(nn.Embedding(5, 8), nn.Linear(8, 8)),
    r"no nn.Linear or nn.Conv2d": lambda: nn.Sequential(nn.Tanh()),
    r"'0.weight' is torch.float64, requires_grad=True, in the optimizer: expected float32": lambda: mlp().double(),
    r"'0.weight' is torch.float32, requires_grad=False": frozen,
}


@pytest.mark.parametrize("message", TRUNKS_REFUSED)
def test_layers_that_cannot_be_protected_are_refused(message):
    trunk = TRUNKS_REFUSED[message]()
    optimizer = torch.optim.SGD([*trunk.parameters(), nn.Parameter(torch.zeros(1))], lr=0.1)
    with pytest.raises(ValueError, match=message):
        blank(trunk, optimizer).__enter__()
    assert not optimizer._optimizer_step_post_hooks


def test_normalisation_without_parameters_is_allowed():
    trunk = nn.Sequential(nn.Linear(5, 8), nn.LayerNorm(8, elementwise_affine=False), nn.ReLU())
    learn(blip(), trunk, Task((5,), seed=1))


def test_an_optimizer_of_another_network_is_refused():
    with pytest.raises(ValueError, match=r"'0.weight' is .*, not in the optimizer: expected"):
        blank(optimizer=torch.optim.SGD(mlp().parameters(), lr=0.1)).__enter__()


@pytest.mark.parametrize("name", ["blip", "ewc", "gpm"])
def test_a_method_that_learned_another_network_is_refused(name):
    method = blip() if name == "blip" else make_method({"name": name})
    learn(method, mlp(), Task((5,), seed=1))
    with pytest.raises(ValueError, match=r"another network"):
        blank(nn.Sequential(nn.Linear(3, 12), nn.Tanh(), nn.Linear(12, 8)), method=method).__enter__()


END_TASK_REFUSED = {
    r"gave 0 inputs: expected batches": ([], nn.Linear(8, 2)),
    r"gave a dict: expected inputs, or a tuple": ([{"x": torch.ones(2, 5)}], nn.Linear(8, 2)),
    r"head returned \(1,\) for one input: expected logits": ([torch.ones(2, 5)], lambda features: features[:, 0]),
    r"head returned \(1, 1\) for one input: expected .* at least two": ([torch.ones(2, 5)], nn.Linear(8, 1)),
    r"head returned list for one input": ([torch.ones(2, 5)], lambda features: [features]),
}


@pytest.mark.parametrize("message", END_TASK_REFUSED)
def test_unusable_data_and_heads_are_refused(message):
    method = blip()
    with pytest.raises(ValueError, match=message), blank(method=method) as guard:
        guard.end_task(*END_TASK_REFUSED[message])
    assert method.tasks_seen == 0


def test_a_task_is_consolidated_once():
    with pytest.raises(ValueError, match=r"called twice: open a new"), blank(method=Recording()) as guard:  # noqa: PT012
        guard.end_task([torch.ones(2, 5)], nn.Linear(8, 2))
        guard.end_task([torch.ones(2, 5)], nn.Linear(8, 2))


def test_a_block_without_end_task_warns():
    with pytest.warns(UserWarning, match=r"without guard.end_task"), blank():
        pass


def test_an_error_in_the_block_is_passed_on_and_detaches():
    trunk = mlp()
    optimizer = torch.optim.SGD(trunk.parameters(), lr=0.1)
    with pytest.raises(KeyError), blank(trunk, optimizer):
        raise KeyError
    assert not optimizer._optimizer_step_post_hooks


# --- documentation


def test_the_documented_loop_runs():
    (code,) = re.findall(r"```python\n(.*?)```", (DOCS / "any-module.md").read_text(encoding="utf-8"), re.DOTALL)
    tasks = [TensorDataset(torch.randn(100, 1, 28, 28), torch.randint(10, (100,))) for _ in range(2)]
    names = {"tasks": tasks}
    exec(code.replace("range(10)", "range(1)"), names)
    assert names["method"].tasks_seen == 2
    assert names["method"].mean_frozen_bits() > 0
