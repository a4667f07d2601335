"""The parts that every PPO iteration is made of, each measured alone, and their shares in a whole iteration.

What a machine can give at most follows from the parts alone. Where they take turns, a step costs their sum; where they
could run side by side, as on a GPU whose emulators keep the processor busy, it costs the slowest of them.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from _measure import cpu_seconds, timed
from stable_baselines3.common.vec_env import VecEnv

from _benchmark.contestants import Contestant, Lap, synchronise
from blip_rl.config import RunConfig
from blip_rl.learner.collector import GroupActor, StagingBuffer
from blip_rl.learner.cuda_graph import CapturedFunction, can_capture
from blip_rl.learner.distributions import sample
from blip_rl.tasks.make import make_training_env

EMULATOR, INFERENCE, UPDATE = "emulator alone", "inference alone", "update alone"
IN_TURN, SIDE_BY_SIDE = "limit: one after another", "limit: side by side"
SHARES = ("emulator", "inference", "update: forward and backward", "optimizer", "method, after each step", "rest")
_BATCHES = 16


@dataclass
class Stages:
    """Emulator and policy of the same recipe as the contestants, to be measured by themselves.

    Attributes:
        env: Games that nobody else plays.
        plain: blip-rl's fine-tuning, whose policy is asked and whose updates are the update alone.
    """

    env: VecEnv
    plain: Contestant

    def __post_init__(self) -> None:
        generator = np.random.default_rng(0)
        actions = self.env.action_space.n  # type: ignore[attr-defined]
        self._actions = generator.integers(actions, size=(self.plain.agent.n_steps, self.env.num_envs))
        self.env.reset()
        self._frames = [self.env.step(self._actions[0])[0] for _ in range(_BATCHES)]
        self._device = self.plain.agent.device
        self._chosen = _recorded_policy(self) if can_capture(self._device) else _plain_policy(self)

    @property
    def first_frames(self) -> np.ndarray:
        """What all games show at once."""
        return self._frames[0]

    def emulate(self, updates: int) -> Lap:
        """Random actions, nothing else."""
        return self._lap(updates, lambda step: self.env.step(self._actions[step]))

    def infer(self, updates: int) -> Lap:
        """Copy a batch of frames to the network, ask the policy, bring the actions back."""
        policy = self.plain.agent.policy
        policy.set_training_mode(False)
        with policy.matmul_precision():
            return self._lap(updates, lambda step: self._chosen(self._frames[step % _BATCHES]).cpu().numpy())

    def _lap(self, updates: int, function: Callable[[int], object]) -> Lap:
        synchronise(self._device)
        cpu, begun = cpu_seconds(), time.perf_counter()
        for _ in range(updates):
            for step in range(len(self._actions)):
                function(step)
        synchronise(self._device)
        steps = updates * self._actions.size
        return Lap(steps, time.perf_counter() - begun, cpu_seconds() - cpu, 0.0)


def _plain_policy(stages: Stages) -> Callable[[np.ndarray], torch.Tensor]:
    """Frames → actions, the frames copied to memory that has their channels last, as the network takes them."""
    policy, frames = stages.plain.agent.policy, torch.from_numpy(stages.first_frames)
    slot = torch.empty_like(frames, memory_format=torch.channels_last)

    def choose(observations: np.ndarray) -> torch.Tensor:
        with torch.no_grad():
            return policy(slot.copy_(torch.from_numpy(observations)))[0]

    return choose


def _recorded_policy(stages: Stages) -> Callable[[np.ndarray], torch.Tensor]:
    """Frames → actions by a CUDA graph, the quickest there is."""
    policy = stages.plain.agent.policy
    staging = StagingBuffer(len(stages.first_frames), policy.observation_space, policy.device)
    recording = CapturedFunction(lambda: sample(policy, staging.tensor), policy.device)

    def choose(observations: np.ndarray) -> torch.Tensor:
        staging.put(observations)
        return recording.run()[0]

    return choose


def open_stages(config: RunConfig, plain: Contestant, stack: ExitStack) -> Stages:
    """Load the games once more; the stack closes them."""
    env = make_training_env(config.tasks[0], config.atari, config.agent.ppo.environments, seed=10_000)  # no groups
    stack.callback(env.close)
    stages = Stages(env, plain)
    stages.infer(1)  # records, where it does
    return stages


def limits(emulator: Lap, inference: Lap, plain: Lap) -> dict[str, float]:
    """Steps per second that the parts alone would allow, from one round."""
    parts = [emulator.seconds / emulator.steps, inference.seconds / inference.steps, plain.update_seconds / plain.steps]
    return {
        EMULATOR: 1 / parts[0],
        INFERENCE: 1 / parts[1],
        UPDATE: 1 / parts[2],
        IN_TURN: 1 / sum(parts),
        SIDE_BY_SIDE: 1 / max(parts),
    }


def shares(contestant: Contestant, updates: int) -> dict[str, float]:
    """Share of each part in the time of some more PPO iterations; on a GPU each part is waited for, at some cost.

    Parts are told by the functions called. Of games that step while the network works only the waiting is counted, and
    an update that has been recorded as a CUDA graph is one piece: its optimizer and method are in the first part of it.
    """
    agent, wait = contestant.agent, contestant.wait
    seconds: dict[str, float] = defaultdict(float)
    method = contestant.method
    grouped = "group_" if hasattr(agent.env, "step_group_wait") else ""
    asked = (agent.policy, "forward") if method is None else (GroupActor, "choose")
    with (
        timed(agent.env, f"step_{grouped}async", seconds, "emulator"),
        timed(agent.env, f"step_{grouped}wait", seconds, "emulator"),
        timed(*asked, seconds, "inference", wait),
        timed(agent, "train", seconds, "train", wait),
        timed(agent.policy.optimizer, "step", seconds, "optimizer", wait),
        timed(method, "after_step", seconds, "method", wait) if method else nullcontext(),
    ):
        total = contestant.learn(updates).seconds
    # The projection hangs on the optimizer's step, and that is called by train().
    parts = [
        seconds["emulator"],
        seconds["inference"],
        seconds["train"] - seconds["optimizer"],
        seconds["optimizer"] - seconds["method"],
        seconds["method"],
        total - seconds["emulator"] - seconds["inference"] - seconds["train"],
    ]
    return {name: part / total for name, part in zip(SHARES, parts, strict=True)}
