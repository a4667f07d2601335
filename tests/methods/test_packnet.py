"""PackNet: shares of equal size, earlier tasks unchanged to the bit, pruned weights at 0."""

import pytest
import torch

from blip_rl.methods.attach import attached
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
def test_finished_tasks_keep_their_outputs_bit_for_bit(name):
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


def test_end_task_prunes_if_progress_was_not_reported():
    packnet, trunk = Packnet(tasks=4), mlp()
    figures = learn(packnet, trunk, three_tasks("mlp")[0])
    assert figures["free_weights"] == pytest.approx(0.75)
    for key, weight in weights(trunk).items():
        assert torch.equal(weight != 0, owners(packnet)[key] == 1)


def test_retrain_share_of_zero_prunes_at_the_end():
    packnet, trunk, seen = Packnet(retrain_share=0.0), mlp(), []
    train(packnet, trunk, three_tasks("mlp")[0], after_step=lambda step: seen.append(weights(trunk)))
    assert all(weight.all() for weight in seen[-1].values())
    assert not all(weight.all() for weight in weights(trunk).values())


def test_full_trunk_warns_and_does_not_change():
    packnet, trunk, (first, second, _) = Packnet(tasks=1), mlp(), three_tasks("mlp")
    train(packnet, trunk, first)
    before, head = copies(trunk), second.head.weight.detach().clone()
    with pytest.warns(UserWarning, match=r"task 2 has no free weights.*method\.tasks = 1"):
        train(packnet, trunk, second)
    assert all(torch.equal(value, before[key]) for key, value in copies(trunk).items())
    assert not torch.equal(second.head.weight, head)


def test_resumed_task_keeps_the_weights_chosen_before():
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
