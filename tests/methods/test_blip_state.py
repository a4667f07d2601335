"""State of BLIP: 13 bytes for each parameter, saved and loaded bit for bit."""

import copy

import pytest
import torch
from safetensors.torch import load, save

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
def test_saved_and_loaded_run_continues_bit_for_bit(name, settings):
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


def test_outcome_of_the_prior_is_kept_over_later_tasks():
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


def test_copy_of_the_trunk_keeps_the_intervals():
    blip, trunk = Blip(first_task_bits=4), mlp()
    first, second, _ = three_tasks("mlp")
    learn(blip, trunk, first)
    intervals = [(low.clone(), high.clone()) for low, high in blip.intervals().values()]
    other = copy.deepcopy(trunk)
    learn(blip, other, second, learning_rate=0.1, after_step=lambda: None)
    for parameter, (low, high) in zip(other.parameters(), intervals, strict=True):
        assert ((low <= parameter) & (parameter <= high)).all()
    assert any(bits.any() for bits in blip.frozen_bits().values())
