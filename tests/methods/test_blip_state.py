"""State of BLIP: 13 bytes for each parameter, saved and loaded bit for bit."""

import copy
import json

import pytest
import torch
from safetensors.torch import load, save
from torch import nn

from blip_rl.methods.base import MethodState
from blip_rl.methods.blip import Blip
from tests.methods.small_tasks import TRUNKS, copies, learn, mlp, three_tasks

trunks = pytest.mark.parametrize("name", TRUNKS)


def through_a_file(state):
    """The state as a checkpoint keeps it: bytes and JSON values."""
    contiguous = {name: tensor.contiguous() for name, tensor in state.tensors.items()}
    return MethodState(load(save(contiguous)), dict(state.values))


def same_state(one, other):
    return (
        one.values == other.values
        and one.tensors.keys() == other.tensors.keys()
        and all(torch.equal(tensor, other.tensors[name]) for name, tensor in one.tensors.items())
    )


@trunks
@pytest.mark.parametrize(
    "settings", [{}, {"nested": False, "gain": "paper"}, {"round_after_task": True}, {"interval": "half"}]
)
def test_a_run_that_is_saved_and_loaded_goes_on_bit_for_bit(name, settings):
    settings = {"first_task_bits": 4} | settings
    blip, trunk = Blip(**settings), TRUNKS[name][0]()
    *earlier, last = three_tasks(name)
    for task in earlier:
        learn(blip, trunk, task)

    loaded, other_trunk, other_last = Blip(**settings), TRUNKS[name][0](), copy.deepcopy(last)
    other_trunk.load_state_dict(trunk.state_dict())
    loaded.load_state(through_a_file(blip.state()))

    figures = learn(blip, trunk, last)
    assert learn(loaded, other_trunk, other_last) == figures
    assert all(torch.equal(value, copies(trunk)[n]) for n, value in copies(other_trunk).items())
    assert same_state(loaded.state(), blip.state())


def test_a_state_loaded_and_started_is_the_state_saved():
    blip, trunk = Blip(first_task_bits=4), mlp()
    learn(blip, trunk, three_tasks("mlp")[0])
    loaded = Blip(first_task_bits=4)
    loaded.load_state(through_a_file(blip.state()))
    assert (loaded.tasks_seen, loaded.fisher_prior) == (1, blip.fisher_prior)
    # Frozen weights may have a remainder beyond their new interval: the next start clips it, here and in the original.
    loaded.start_task(trunk)
    blip.start_task(trunk)
    assert same_state(loaded.state(), blip.state())
    assert all(torch.equal(bits, blip.frozen_bits()[name]) for name, bits in loaded.frozen_bits().items())


def test_a_state_loaded_and_not_yet_started_is_not_lost():
    """Somebody may load a checkpoint and save another before learning."""
    blip, trunk = Blip(first_task_bits=4), mlp()
    learn(blip, trunk, three_tasks("mlp")[0])
    loaded = Blip(first_task_bits=4)
    loaded.load_state(through_a_file(blip.state()))
    assert same_state(loaded.state(), blip.state())


def test_later_training_does_not_change_a_saved_state():
    blip, trunk = Blip(first_task_bits=4), mlp()
    first, second, _ = three_tasks("mlp")
    learn(blip, trunk, first)
    taken = blip.state()
    before = through_a_file(taken)
    learn(blip, trunk, second)
    assert same_state(taken, before)


@trunks
@pytest.mark.parametrize("tasks", [1, 3])
def test_the_state_is_13_bytes_for_each_parameter_whatever_the_number_of_tasks(name, tasks):
    blip, trunk = Blip(first_task_bits=4), TRUNKS[name][0]()
    for task in three_tasks(name)[:tasks]:
        learn(blip, trunk, task, steps=2)
    size = sum(tensor.numel() * tensor.element_size() for tensor in blip.state().tensors.values())
    assert size == 13 * sum(parameter.numel() for parameter in trunk.parameters())
    values = blip.state().values
    assert set(values) == {"tasks_seen", "fisher_prior", "total_bits", "first_task", "without_information"}
    assert json.loads(json.dumps(values)) == values


def test_what_the_prior_did_is_kept_over_later_tasks():
    blip, trunk = Blip(first_task_drift=0.01), mlp()
    first, second, _ = three_tasks("mlp")
    figures = learn(blip, trunk, first)
    kept = blip.state().values["first_task"]
    assert kept["prior"] == figures["fisher_prior"] == blip.fisher_prior
    assert (kept["informed_bits"], kept["drift"]) == (figures["informed_bits"], figures["drift"])
    assert kept["bits"] == pytest.approx(figures["mean_frozen_bits"])
    later = learn(blip, trunk, second)
    assert "drift" not in later
    assert blip.state().values["first_task"] == kept


def test_a_state_of_an_early_version_is_loaded():
    """It has no record of the first task, and no shares without information."""
    blip, trunk = Blip(first_task_bits=4), mlp()
    first, second, _ = three_tasks("mlp")
    learn(blip, trunk, first)
    state = blip.state()
    early = {name: state.values[name] for name in ("tasks_seen", "fisher_prior", "total_bits")}
    loaded = Blip(first_task_bits=4)
    loaded.load_state(MethodState(state.tensors, early))
    assert loaded.state().values["first_task"] is None
    learn(loaded, trunk, second)
    assert loaded.state().values["without_information"]


def test_another_object_with_the_same_network_takes_the_intervals_over():
    blip, trunk = Blip(first_task_bits=4), mlp()
    first, second, _ = three_tasks("mlp")
    learn(blip, trunk, first)
    intervals = [(low.clone(), high.clone()) for low, high in blip.intervals().values()]
    other = copy.deepcopy(trunk)
    learn(blip, other, second, learning_rate=0.1, after_step=lambda: None)
    for parameter, (low, high) in zip(other.parameters(), intervals, strict=True):
        assert ((low <= parameter) & (parameter <= high)).all()
    assert any(bits.any() for bits in blip.frozen_bits().values())


@pytest.mark.parametrize(
    ("trunk", "message"),
    [
        (nn.Sequential(nn.Linear(5, 12)), r"state for '2\.[\w.]+', which this trunk does not have"),
        (nn.Sequential(*mlp(), nn.Linear(8, 8)), r"the saved state has no '4\.weight\.frozen_bits'"),
        (
            nn.Sequential(nn.Linear(5, 13), nn.Tanh(), nn.Linear(13, 8)),
            r"'0\.weight\.frozen_bits' is \(12, 5\), expected",
        ),
    ],
)
def test_a_state_of_another_network_is_refused(trunk, message):
    blip = Blip(first_task_bits=4)
    learn(blip, mlp(), three_tasks("mlp")[0], steps=2)
    loaded = Blip(first_task_bits=4)
    loaded.load_state(blip.state())
    for _ in range(2):  # a refusal must not use the state up
        with pytest.raises(ValueError, match=message):
            loaded.start_task(trunk)
