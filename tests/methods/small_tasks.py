"""Small trunks and tasks to learn on them: policy gradients with Adam, seconds instead of hours."""

import math
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn import functional as F

from blip_rl.core import bits
from blip_rl.methods.attach import attached
from blip_rl.methods.base import FinishedTask

FEATURES = 8


def mlp():
    return nn.Sequential(nn.Linear(5, 12), nn.Tanh(), nn.Linear(12, FEATURES), nn.Tanh())


def conv():
    layers = nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Linear(64, FEATURES),
        nn.ReLU(inplace=True),
    )
    return layers.to(memory_format=torch.channels_last)


TRUNKS = {"mlp": (mlp, (5,)), "conv": (conv, (2, 9, 9))}


@dataclass
class Task:
    """States, the action that pays in each, and a head and a critic of its own."""

    shape: tuple[int, ...]
    seed: int
    actions: int = 4
    scale: float = 1.0
    head: nn.Linear = field(init=False)
    critic: nn.Linear = field(init=False)
    observations: torch.Tensor = field(init=False)
    paying: torch.Tensor = field(init=False)

    def __post_init__(self):
        generator = torch.Generator().manual_seed(self.seed)
        self.head = nn.Linear(FEATURES, self.actions)
        self.observations = torch.randn(64, *self.shape, generator=generator) * self.scale
        self.paying = torch.randint(self.actions, (64,), generator=generator)
        self.critic = nn.utils.skip_init(nn.Linear, FEATURES, 1)  # the torch generator is the trunk's and the head's
        for parameter in self.critic.parameters():
            nn.init.normal_(parameter, std=0.3, generator=generator)

    def loss(self, trunk):
        return F.cross_entropy(self.head(trunk(self.observations)), self.paying)

    def greedy_actions(self, trunk):
        with torch.no_grad():
            return self.head(trunk(self.observations)).argmax(1)

    def values(self, features):
        return self.critic(features).flatten()

    def finished(self, trunk, seed=0, samples=64):
        generator = torch.Generator().manual_seed(seed)
        values = lambda observations: self.values(trunk(observations))  # noqa: E731
        return FinishedTask(trunk, self.head, self.observations[:samples], lambda x: x, generator, values)


def three_tasks(name):
    shape = TRUNKS[name][1]
    return [Task(shape, seed, actions) for seed, actions in ((1, 4), (2, 6), (3, 3))]


def learn(method, trunk, task, steps=25, learning_rate=0.02, after_step=lambda: None):
    """Learn one task under a method, and consolidate it; ``after_step`` may look at every step."""
    optimizer = torch.optim.Adam([*trunk.parameters(), *task.head.parameters()], lr=learning_rate)
    with attached(method, trunk, optimizer):
        after_step()
        for _ in range(steps):
            optimizer.zero_grad()
            task.loss(trunk).backward()
            optimizer.step()
            after_step()
        return method.end_task(task.finished(trunk))


def forgetting(method, name, steps=100):
    """How much the first task's loss grows while two others are learned."""
    trunk, tasks = TRUNKS[name][0](), three_tasks(name)
    learn(method, trunk, tasks[0], steps)
    learned = tasks[0].loss(trunk).item()
    for task in tasks[1:]:
        learn(method, trunk, task, steps)
    return tasks[0].loss(trunk).item() - learned


def bounds(trunk):
    """b of every parameter: 6/√fan of weights, 1 of biases."""
    found = {}
    for name, parameter in trunk.named_parameters():
        outputs, *inputs = parameter.shape
        found[name] = 6 / math.sqrt(max(outputs, math.prod(inputs))) if inputs else 1.0
    return found


def copies(trunk):
    return {name: parameter.detach().clone() for name, parameter in trunk.named_parameters()}


def inside(trunk, intervals):
    return all(((low <= p) & (p <= high)).all() for p, (low, high) in zip(trunk.parameters(), intervals, strict=True))


def on_grid(trunk, total_bits):
    bound = bounds(trunk)
    return all(torch.equal(bits.quantize(p, total_bits, bound[name]), p) for name, p in copies(trunk).items())
