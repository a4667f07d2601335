"""CLEAR: the cloning loss against numpy, the bounded memory, even and seeded draws."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Categorical, Normal

from blip_rl.errors import UserError
from blip_rl.methods.attach import attached
from blip_rl.methods.base import FinishedTask, MethodState
from blip_rl.methods.clear import Clear
from tests.methods.small_tasks import FEATURES, Task, mlp, three_tasks


class Learner:
    """Tasks on one trunk, each with an actor and a critic; hands a method what the agent would."""

    def __init__(self, tasks=None, noise=None):
        torch.manual_seed(0)
        self.trunk = mlp()
        self.tasks = tasks or three_tasks("mlp")
        self.critics = [nn.Linear(FEATURES, 1) for _ in self.tasks]
        self.noise = noise
        self.asked = []

    def head(self, index):
        if self.noise is None:
            return lambda features: Categorical(logits=self.tasks[index].head(features))
        return lambda features: Normal(*self._gaussian(index, features))

    def _gaussian(self, index, features):
        mean = self.tasks[index].head(features)
        return mean, torch.full_like(mean, self.noise[index])

    def critic(self, index):
        return lambda features: self.critics[index](features).flatten()

    def finished(self, index, observations=None, seed=0):
        observations = self.tasks[index].observations if observations is None else observations
        generator = torch.Generator().manual_seed(seed)
        head, critic = self.head(index), self.critic(index)
        values = lambda frames: critic(self.trunk(frames))  # noqa: E731
        return FinishedTask(self.trunk, head, observations, lambda x: x, generator, values)

    def outputs(self, task, observations):
        self.asked.append((task, observations))
        features = self.trunk(observations)
        return self.head(task - 1)(features), self.critic(task - 1)(features)

    def after(self, method, count):
        """Finish ``count`` tasks and begin the next."""
        for index in range(count):
            method.start_task(self.trunk)
            for _ in range(index):  # draws made while an earlier task was learned must not shift later ones
                method.loss(self.outputs)
            method.end_task(self.finished(index))
        method.start_task(self.trunk)
        self.asked.clear()
        return method

    def drift(self, scale=0.3):
        with torch.no_grad():
            for parameter in self.trunk.parameters():
                parameter += scale * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(7))


def softmax(logits):
    exponentials = np.exp(logits - logits.max(1, keepdims=True))
    return exponentials / exponentials.sum(1, keepdims=True)


def outputs_of(learner, index, observations):
    with torch.no_grad():
        features = learner.trunk(observations)
        logits = learner.tasks[index].head(features).double().numpy()
        return logits, learner.critics[index](features).flatten().double().numpy()


def test_loss_equals_the_formula_in_numpy():
    """Σ π_old log(π_old / π_new) and (V − V_old)², a mean over the batch, from the formulas alone."""
    learner = Learner()
    method = learner.after(Clear(policy_cloning=0.7, value_cloning=0.3, batch=10, capacity_frames=64), 2)
    before = {index: outputs_of(learner, index, learner.tasks[index].observations) for index in (0, 1)}
    learner.drift()
    loss = method.loss(learner.outputs)
    total, frames = 0.0, 0
    for task, observations in learner.asked:
        all_frames = learner.tasks[task - 1].observations
        rows = [int((all_frames == frame).all(1).nonzero().item()) for frame in observations]
        old_logits, old_values = (side[rows] for side in before[task - 1])
        new_logits, new_values = outputs_of(learner, task - 1, observations)
        old, new = softmax(old_logits), softmax(new_logits)
        total += 0.7 * (old * np.log(old / new)).sum() + 0.3 * ((new_values - old_values) ** 2).sum()
        frames += len(rows)
    assert frames == 10
    assert loss.item() == pytest.approx(total / 10, rel=1e-5)
    assert loss.item() > 0.01


def test_loss_of_gaussian_policies_equals_the_formula():
    """KL(N(m, s) ‖ N(m', s')) = log(s'/s) + (s² + (m − m')²) / 2s'² − ½, summed over the action's dimensions."""
    learner = Learner(noise=[0.5, 0.5, 0.5])
    method = learner.after(Clear(policy_cloning=1.0, value_cloning=0.0, batch=8), 1)
    observations = learner.tasks[0].observations
    old_means, _ = outputs_of(learner, 0, observations)
    learner.drift()
    learner.noise[0] = 0.8
    loss = method.loss(learner.outputs)
    ((_, replayed),) = learner.asked
    rows = [int((observations == frame).all(1).nonzero().item()) for frame in replayed]
    means, _ = outputs_of(learner, 0, replayed)
    divergence = np.log(0.8 / 0.5) + (0.25 + (means - old_means[rows]) ** 2) / (2 * 0.64) - 0.5
    assert loss.item() == pytest.approx(divergence.sum(1).mean(), rel=1e-5)


def test_the_loss_is_zero_until_the_trunk_moves():
    learner = Learner()
    method = learner.after(Clear(policy_cloning=1.0, value_cloning=1.0), 2)
    assert method.loss(learner.outputs).item() == pytest.approx(0.0, abs=1e-6)


def test_gradient_reaches_the_trunk_and_reduces_the_loss():
    """Descent on the loss alone brings what the trunk says on earlier frames back to what it said."""
    learner = Learner()
    method = learner.after(Clear(policy_cloning=1.0, value_cloning=1.0, batch=32), 2)
    learner.drift()
    optimizer = torch.optim.Adam(learner.trunk.parameters(), lr=0.01)
    losses = []
    with attached(method, learner.trunk, optimizer):
        for _ in range(60):
            optimizer.zero_grad()
            loss = method.loss(learner.outputs)
            loss.backward()
            assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in learner.trunk.parameters())
            optimizer.step()
            losses.append(loss.item())
    assert np.mean(losses[-5:]) < 0.2 * np.mean(losses[:5])


def test_first_task_has_no_loss_and_no_state():
    method = Clear()
    method.start_task(mlp())
    assert method.loss(lambda task, observations: pytest.fail("nothing to replay")) is None
    assert method.state() == MethodState({}, {"tasks_seen": 0, "seed": 0})


def test_frames_are_drawn_evenly_over_tasks():
    learner = Learner()
    method = learner.after(Clear(batch=11), 3)
    drawn = np.zeros((120, 3), dtype=int)
    for row in drawn:
        learner.asked.clear()
        method.loss(learner.outputs)
        for task, observations in learner.asked:
            row[task - 1] = len(observations)
    assert (drawn.sum(1) == 11).all()
    assert set(drawn.ravel()) == {3, 4}
    assert drawn.mean(0) == pytest.approx([11 / 3] * 3, abs=0.25)


def test_batch_smaller_than_the_number_of_tasks_draws_from_all():
    learner = Learner()
    method = learner.after(Clear(batch=1), 3)
    for _ in range(30):
        method.loss(learner.outputs)
    assert {task for task, _ in learner.asked} == {1, 2, 3}
    assert {len(observations) for _, observations in learner.asked} == {1}


def test_every_frame_kept_is_replayed():
    learner = Learner()
    method = learner.after(Clear(batch=40, capacity_frames=20), 1)
    for _ in range(10):
        method.loss(learner.outputs)
    replayed = {tuple(frame.tolist()) for _, observations in learner.asked for frame in observations}
    assert replayed == {tuple(frame.tolist()) for frame in method.state().tensors["task1.observations"]}


def test_draws_are_the_same_after_a_restart_and_differ_between_tasks_and_seeds():
    def first_draw(learner, method):
        learner.asked.clear()
        method.loss(learner.outputs)
        return [observations for _, observations in learner.asked]

    one, other = Learner(), Learner()
    method = one.after(Clear(), 2)
    restored = Clear()
    restored.load_state(method.state())
    restored.start_task(other.trunk)
    draw = first_draw(one, method)
    torch.rand(3)  # the global generator has no say
    assert all(map(torch.equal, draw, first_draw(other, restored)))
    assert not torch.equal(draw[0], first_draw(one, method)[0])
    assert restored.state().values == method.state().values
    reseeded = Clear()
    reseeded.start_task(other.trunk)
    reseeded.end_task(other.finished(0, seed=5))
    assert reseeded.state().values["seed"] != Learner().after(Clear(), 1).state().values["seed"]


def sizes(method):
    return [len(tensor) for name, tensor in method.state().tensors.items() if name.endswith("observations")]


def test_memory_is_divided_equally_after_each_task():
    learner = Learner()
    method = Clear(capacity_frames=60)
    assert method.samples_wanted == 60
    learner.after(method, 1)
    assert (sizes(method), method.samples_wanted) == ([60], 30)
    method.end_task(learner.finished(1))
    assert (sizes(method), method.samples_wanted) == ([30, 30], 20)
    method.end_task(learner.finished(2))
    assert sizes(method) == [20, 20, 20]


def test_capacity_mb_applies_if_it_is_the_smaller_limit():
    """Frames of 5 float32 are 20 bytes: 900 bytes hold 45."""
    learner = Learner()
    method = learner.after(Clear(capacity_mb=900e-6), 1)
    assert (sizes(method), method.samples_wanted) == ([45], 22)
    assert method.memory_bytes() == 900
    figures = method.end_task(learner.finished(1))
    assert sizes(method) == [22, 22]
    assert figures == {"replay_frames": 44.0, "replay_mb": pytest.approx(880e-6)}


def test_samples_wanted_assumes_atari_frames_before_the_first_task():
    assert Clear(capacity_frames=10_000_000).samples_wanted == 300_000_000 // (4 * 84 * 84)


def test_thinned_memory_is_a_random_part_with_matching_targets():
    learner = Learner()
    method = learner.after(Clear(capacity_frames=40), 1)
    first = method.state().tensors
    method.end_task(learner.finished(1))
    thinned = method.state().tensors
    rows = [
        int((first["task1.observations"] == frame).all(1).nonzero().item()) for frame in thinned["task1.observations"]
    ]
    assert len(set(rows)) == 20
    assert sorted(rows) not in (list(range(20)), list(range(20, 40)))
    for key in ("logits", "values"):
        assert torch.equal(thinned[f"task1.{key}"], first[f"task1.{key}"][rows])


def test_memory_too_small_for_all_tasks_is_refused():
    learner = Learner()
    method = learner.after(Clear(capacity_frames=1), 1)
    with pytest.raises(UserError, match=r"capacity_frames = 1 .*hold 1 frames of 20 bytes.*each of 2 tasks"):
        method.end_task(learner.finished(1))
    with pytest.raises(UserError, match=r"capacity_mb = 1e-06 hold 0 frames"):
        Learner().after(Clear(capacity_mb=1e-6), 1)


def test_uint8_frames_are_stored_as_uint8():
    trunk = nn.Sequential(nn.Flatten(), nn.Linear(8, FEATURES))
    frames = torch.randint(256, (30, 2, 2, 2), dtype=torch.uint8)
    head, generator = nn.Linear(FEATURES, 3), torch.Generator().manual_seed(0)
    method = Clear(capacity_frames=12)
    method.start_task(trunk)
    method.end_task(FinishedTask(trunk, head, frames, lambda x: x.float() / 255, generator))
    tensors = method.state().tensors
    assert tensors["task1.observations"].dtype == torch.uint8
    assert method.memory_bytes() == 12 * 8
    with torch.no_grad():
        logits = head(trunk(tensors["task1.observations"].float() / 255)).log_softmax(1)
    assert torch.allclose(tensors["task1.logits"], logits, atol=1e-6)
    assert "task1.values" not in tensors  # there was no critic to ask
    outputs = lambda task, frames: (Categorical(logits=head(trunk(frames.float()))), torch.zeros(len(frames)))  # noqa: E731
    assert method.loss(outputs).item() > 0


def test_memory_shares_no_tensors_with_the_rollout_or_callers():
    """Neither the rollout's later use nor a caller of state() changes what was kept."""
    learner = Learner()
    observations = learner.tasks[0].observations.clone()
    method = Clear(capacity_frames=64)
    method.start_task(learner.trunk)
    method.end_task(learner.finished(0, observations))
    kept = method.state().tensors["task1.observations"].clone()
    observations.zero_()
    assert torch.equal(method.state().tensors["task1.observations"], kept)


def damaged(method, **changes):
    state = method.state()
    tensors = {**state.tensors, **changes}
    return MethodState({k: t for k, t in tensors.items() if t is not None}, state.values)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task1.observations": None}, "'task1.observations'"),
        ({"fc1.weight.centre": torch.zeros(2)}, r"'fc1\.weight\.centre'.*another method"),
        ({"task2.values": torch.zeros(3)}, r"'task2\.values' has 3 rows"),
        ({"task2.logits": None}, "no policy as the policy of 'task2'"),
    ],
)
def test_another_state_is_refused(changes, message):
    method = Learner().after(Clear(), 2)
    with pytest.raises(ValueError, match=message):
        Clear().load_state(damaged(method, **changes))


def test_another_networks_state_is_refused_by_name():
    method = Learner().after(Clear(), 1)
    wide, restored = nn.Sequential(nn.Linear(9, FEATURES)), Clear()
    restored.load_state(method.state())
    with pytest.raises(ValueError, match=r"'task1\.observations' has frames of \(5,\), but the trunk takes 9"):
        restored.start_task(wide)
    other = Learner([Task((5,), seed=4, actions=9)])
    restored.start_task(other.trunk)
    with pytest.raises(ValueError, match=r"'task1\.logits' does not fit"):
        restored.loss(other.outputs)


def test_a_task_that_comes_back_keeps_its_share():
    learner = Learner()
    method = learner.after(Clear(capacity_frames=60), 2)
    method.task = 1
    assert method.samples_wanted == 30
    method.end_task(learner.finished(0))
    assert sizes(method) == [30, 30]
