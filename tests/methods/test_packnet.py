"""PackNet: shares of equal size, earlier tasks unchanged to the bit, pruned weights at 0."""

import contextlib
import copy
import json

import pytest
import torch
from safetensors.torch import load, save
from torch import nn

from blip_rl.methods.base import MethodState, attached
from blip_rl.methods.packnet import Packnet
from tests.methods.small_tasks import TRUNKS, Task, copies, learn, mlp, three_tasks

trunks = pytest.mark.parametrize("name", TRUNKS)


def train(packnet, trunk, task, steps=20, after_step=lambda step: None):
    """Learn one task as PPO does it: progress is reported before every update."""
    optimizer = torch.optim.Adam([*trunk.parameters(), *task.head.parameters()], lr=0.02)
    with attached(packnet, trunk, optimizer):
        for step in range(1, steps + 1):
            packnet.at_progress(step / steps)
            optimizer.zero_grad()
            task.loss(trunk).backward()
            optimizer.step()
            after_step(step)
    return packnet.end_task(task.finished(trunk))


def owners(packnet):
    return {key.removesuffix(".owner"): tensor for key, tensor in packnet.state().tensors.items()}


def weights(trunk):
    return {name: value for name, value in copies(trunk).items() if value.dim() > 1}


def played(packnet, trunk, task, number):
    with packnet.playing(trunk, number), torch.no_grad():
        return task.head(trunk(task.observations))


@trunks
def test_weights_of_earlier_tasks_and_biases_never_change(name):
    packnet, trunk = Packnet(tasks=3), TRUNKS[name][0]()
    first, *later = three_tasks(name)
    train(packnet, trunk, first)
    for task in later:
        owned = {key: owner > 0 for key, owner in owners(packnet).items()}
        before = copies(trunk)
        train(packnet, trunk, task)
        after = copies(trunk)
        for key, mask in owned.items():
            assert 0 < mask.sum() < mask.numel()
            assert torch.equal(after[key][mask], before[key][mask])
            assert not torch.equal(after[key], before[key])  # the task did learn something
        biases = before.keys() - owned.keys()
        assert len(biases) == 2
        assert all(torch.equal(after[key], before[key]) for key in biases)


@trunks
def test_every_task_plays_for_ever_as_it_did_when_it_was_finished(name):
    packnet, trunk, tasks = Packnet(tasks=3), TRUNKS[name][0](), three_tasks(name)
    outputs = []
    for number, task in enumerate(tasks, start=1):
        train(packnet, trunk, task)
        assert torch.equal(played(packnet, trunk, task, number), task.head(trunk(task.observations)))
        outputs.append(played(packnet, trunk, task, number))
        for earlier in range(number):
            assert torch.equal(played(packnet, trunk, tasks[earlier], earlier + 1), outputs[earlier])
    with torch.no_grad():
        assert not torch.equal(tasks[0].head(trunk(tasks[0].observations)), outputs[0])  # nothing to hide otherwise


@trunks
def test_playing_while_a_later_task_is_being_learned(name):
    packnet, trunk = Packnet(tasks=3), TRUNKS[name][0]()
    first, second, _ = three_tasks(name)
    train(packnet, trunk, first)
    output = played(packnet, trunk, first, 1)

    def look(step):
        assert torch.equal(played(packnet, trunk, first, 1), output)
        with torch.no_grad():
            assert torch.equal(played(packnet, trunk, second, 2), second.head(trunk(second.observations)))
            assert torch.equal(played(packnet, trunk, second, 3), second.head(trunk(second.observations)))

    train(packnet, trunk, second, after_step=look)


@trunks
@pytest.mark.parametrize("tasks", [1, 3, 7])
def test_every_task_gets_an_equal_share_of_every_layer(name, tasks):
    packnet, trunk = Packnet(tasks=tasks), TRUNKS[name][0]()
    for seed in range(tasks):
        figures = train(packnet, trunk, Task(TRUNKS[name][1], seed), steps=2)
    for owner in owners(packnet).values():
        shares = [int((owner == number).sum()) for number in range(1, tasks + 1)]
        assert sum(shares) == owner.numel()
        assert max(shares) - min(shares) <= 1
        assert shares == sorted(shares, reverse=True)
    assert figures == {"free_weights": 0.0}


@trunks
def test_the_largest_free_weights_are_kept_and_the_rest_is_zero(name):
    """An obvious oracle: sort each layer's free weights by size."""
    packnet, trunk = Packnet(tasks=3), TRUNKS[name][0]()
    for number, task in enumerate(three_tasks(name)[:2], start=1):
        free = {key: owners(packnet).get(key, torch.zeros_like(w)) == 0 for key, w in weights(trunk).items()}
        seen = {}

        def look(step, packnet=packnet, seen=seen):
            if step == 15:
                seen.update(weights(trunk))

        train(packnet, trunk, task, after_step=look)  # 20 steps: pruned just before the 16th
        for key, owner in owners(packnet).items():
            sizes = sorted(
                ((abs(seen[key].flatten()[i].item()), i) for i in free[key].flatten().nonzero()), reverse=True
            )
            count = -(-len(sizes) // (4 - number))
            chosen = {int(i) for _, i in sizes[:count]}
            assert {int(i) for i in (owner == number).flatten().nonzero()} == chosen
            assert not weights(trunk)[key][owner == 0].any()


@trunks
def test_pruned_weights_stay_at_zero_while_the_kept_ones_train_on(name):
    packnet, trunk, task = Packnet(tasks=2, retrain_share=0.5), TRUNKS[name][0](), three_tasks(name)[0]
    seen = {}

    def look(step):
        seen[step] = weights(trunk)
        for key, parameter in trunk.named_parameters():  # nor do they count when the norm is clipped
            assert key not in seen[step] or parameter.grad[seen[step][key] != 0].any()
            assert step < 10 or key not in seen[step] or not parameter.grad[seen[step][key] == 0].any()

    train(packnet, trunk, task, after_step=look)
    kept = {key: owner == 1 for key, owner in owners(packnet).items()}
    for key, mask in kept.items():
        assert seen[9][key][~mask].all()  # pruned before the 10th of 20 steps, with Adam's momentum running
        assert all(not seen[step][key][~mask].any() for step in range(10, 21))
        assert not torch.equal(seen[10][key][mask], seen[20][key][mask])
        assert torch.equal(weights(trunk)[key], seen[20][key])


def test_without_a_report_of_progress_the_end_prunes():
    packnet, trunk = Packnet(tasks=4), mlp()
    figures = learn(packnet, trunk, three_tasks("mlp")[0])
    assert figures["free_weights"] == pytest.approx(0.75)
    for key, weight in weights(trunk).items():
        assert torch.equal(weight != 0, owners(packnet)[key] == 1)


def test_no_retraining_where_its_share_is_zero():
    packnet, trunk, seen = Packnet(retrain_share=0.0), mlp(), []
    train(packnet, trunk, three_tasks("mlp")[0], after_step=lambda step: seen.append(weights(trunk)))
    assert all(weight.all() for weight in seen[-1].values())
    assert not all(weight.all() for weight in weights(trunk).values())


@trunks
def test_until_it_prunes_the_first_task_is_fine_tuning(name):
    packnet, trunk = Packnet(retrain_share=0.1), TRUNKS[name][0]()
    plain, task = copy.deepcopy(trunk), three_tasks(name)[0]
    plain_task, seen = copy.deepcopy(task), []
    train(packnet, trunk, task, after_step=lambda step: seen.append(copies(trunk)))
    optimizer = torch.optim.Adam([*plain.parameters(), *plain_task.head.parameters()], lr=0.02)
    for step in range(17):
        optimizer.zero_grad()
        plain_task.loss(plain).backward()
        optimizer.step()
        assert all(torch.equal(value, seen[step][key]) for key, value in copies(plain).items())


def test_a_full_trunk_says_so_and_stands_still():
    packnet, trunk, (first, second, _) = Packnet(tasks=1), mlp(), three_tasks("mlp")
    train(packnet, trunk, first)
    before, head = copies(trunk), second.head.weight.detach().clone()
    with pytest.warns(UserWarning, match=r"task 2 finds no free weight.*method\.tasks = 1"):
        train(packnet, trunk, second)
    assert all(torch.equal(value, before[key]) for key, value in copies(trunk).items())
    assert not torch.equal(second.head.weight, head)


@trunks
def test_a_run_that_is_saved_and_loaded_goes_on_bit_for_bit(name):
    packnet, trunk = Packnet(tasks=3), TRUNKS[name][0]()
    first, second, third = three_tasks(name)
    train(packnet, trunk, first)
    train(packnet, trunk, second)
    state, loaded = packnet.state(), Packnet(tasks=3)
    tensors = load(save({key: tensor.contiguous() for key, tensor in state.tensors.items()}))
    loaded.load_state(MethodState(tensors, json.loads(json.dumps(state.values))))
    other, other_third = TRUNKS[name][0](), copy.deepcopy(third)
    other.load_state_dict(trunk.state_dict())
    assert torch.equal(played(loaded, other, first, 1), played(packnet, trunk, first, 1))  # before any start_task
    train(packnet, trunk, third)
    train(loaded, other, other_third)
    assert all(torch.equal(value, copies(trunk)[key]) for key, value in copies(other).items())
    assert loaded.state().values == packnet.state().values
    assert all(torch.equal(owner, owners(packnet)[key]) for key, owner in owners(loaded).items())


def test_the_state_is_a_byte_for_each_weight_and_a_copy():
    packnet, trunk = Packnet(tasks=3), mlp()
    for task in three_tasks("mlp")[:2]:
        train(packnet, trunk, task, steps=2)
    taken = packnet.state()
    before = {key: owner.clone() for key, owner in taken.tensors.items()}
    assert sum(o.numel() * o.element_size() for o in before.values()) == sum(w.numel() for w in weights(trunk).values())
    train(packnet, trunk, three_tasks("mlp")[2], steps=2)
    assert all(torch.equal(owner, before[key]) for key, owner in taken.tensors.items())


@trunks
def test_playing_puts_everything_back_also_after_an_error(name):
    packnet, trunk = Packnet(tasks=3), TRUNKS[name][0]()
    for task in three_tasks(name)[:2]:
        train(packnet, trunk, task)
    before, strides = copies(trunk), [p.stride() for p in trunk.parameters()]
    with contextlib.suppress(KeyError), packnet.playing(trunk, 1):
        assert not all(torch.equal(value, before[key]) for key, value in copies(trunk).items())
        raise KeyError("while playing")
    assert all(torch.equal(value, before[key]) for key, value in copies(trunk).items())
    assert [p.stride() for p in trunk.parameters()] == strides


@pytest.mark.parametrize(
    ("trunk", "message"),
    [
        (nn.Sequential(nn.Linear(5, 12)), r"state for '2\.weight', which this trunk does not have"),
        (nn.Sequential(*mlp(), nn.Linear(8, 8)), r"the saved state has no '4\.weight\.owner'"),
        (nn.Sequential(nn.Linear(5, 13), nn.Tanh(), nn.Linear(13, 8)), r"'0\.weight\.owner' is \(12, 5\), expected"),
    ],
)
def test_a_state_of_another_network_is_refused(trunk, message):
    packnet, loaded = Packnet(), Packnet()
    train(packnet, mlp(), three_tasks("mlp")[0], steps=2)
    loaded.load_state(packnet.state())
    for _ in range(2):  # a refusal must not use the state up
        with pytest.raises(ValueError, match=message):
            loaded.start_task(trunk)
        with pytest.raises(ValueError, match=message), loaded.playing(trunk, 1):
            pass


@pytest.mark.parametrize(
    "settings", [{"tasks": 0}, {"tasks": 256}, {"tasks": True}, {"retrain_share": 1.0}, {"retrain_share": -0.1}]
)
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        Packnet(**settings)


def test_the_end_of_a_task_that_never_started_is_refused():
    with pytest.raises(RuntimeError, match="end_task before start_task"):
        Packnet().end_task(three_tasks("mlp")[0].finished(mlp()))


def test_what_a_task_kept_is_not_chosen_anew_when_it_is_resumed():
    """Also where a weight that it kept has come to 0 since, which a new choice would pass over."""
    trunk, task, packnet = mlp(), three_tasks("mlp")[0], Packnet(tasks=2)
    packnet.start_task(trunk)
    packnet.at_progress(0.85)
    kept = {key: mask for key, mask in packnet.state().tensors.items() if key.endswith(".kept")}
    assert set(kept) == {"0.weight.kept", "2.weight.kept"}
    with torch.no_grad():
        trunk[0].weight.view(-1)[kept["0.weight.kept"].flatten().nonzero()[:5].flatten()] = 0.0
    resumed = Packnet(tasks=2)
    resumed.load_state(packnet.state())
    resumed.resume_task(trunk)
    resumed.at_progress(0.9)
    resumed.end_task(task.finished(trunk))
    assert all(torch.equal(owners(resumed)[key.removesuffix(".kept")] == 1, mask) for key, mask in kept.items())
    assert not [key for key in resumed.state().tensors if key.endswith(".kept")]
