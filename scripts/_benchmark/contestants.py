"""Agents that are built, warm and ready to be timed."""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import torch
from _measure import cpu_seconds, peak_rss_mb, timed
from _stock_sb3 import stock_env, stock_ppo, work_of
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

from _benchmark.pool import envpool_env, envpool_missing
from blip_rl.config import RunConfig
from blip_rl.learner.ppo import ContinualPPO
from blip_rl.methods import make_method
from blip_rl.methods.base import Method
from blip_rl.recipes import resolve
from blip_rl.tasks.make import make_training_env

RIVALS = {
    "stock": "stable-baselines3 PPO, DummyVecEnv",
    "stock-subproc": "stable-baselines3 PPO, SubprocVecEnv",
    "envpool": "stable-baselines3 PPO over EnvPool",
}
_EQUAL_NETWORKS = "trunk.task_modulation=false"


@dataclass(frozen=True)
class Lap:
    """What some PPO iterations took; ``update_seconds`` of the seconds went into ``train``."""

    steps: int
    seconds: float
    cpu_seconds: float
    update_seconds: float


@dataclass
class Contestant:
    """One agent; ours have a method and may have consolidated tasks with it."""

    agent: PPO
    method: Method | None = None
    consolidation: dict[str, float] = field(default_factory=dict)
    """What the method reported at the end of the last task."""
    consolidation_seconds: float | None = None

    def learn(self, updates: int) -> Lap:
        """Run whole PPO iterations; on a GPU the clock is read when all work is done."""
        steps = updates * self.agent.n_steps * self.agent.n_envs
        inside: dict[str, float] = defaultdict(float)
        self.wait()
        cpu, begun = cpu_seconds(self.workers), time.perf_counter()
        with timed(self.agent, "train", inside, wait=self.wait):
            self.agent.learn(steps, reset_num_timesteps=False)
        self.wait()
        return Lap(steps, time.perf_counter() - begun, cpu_seconds(self.workers) - cpu, inside["train"])

    def wait(self) -> None:
        """Wait until the GPU, if there is one, has done what it was given."""
        synchronise(self.agent.device)

    @property
    def workers(self) -> list[int]:
        """Process numbers of those that step its games, where others than this one do."""
        assert self.agent.env is not None
        return [process.pid for process in getattr(self.agent.env.unwrapped, "processes", [])]

    def state_bytes(self) -> int | None:
        """What the method remembers."""
        return None if self.method is None else sum(t.nbytes for t in self.method.state().tensors.values())

    def trunk_parameters(self) -> int:
        """Numbers in the layers before the heads."""
        return sum(parameter.numel() for parameter in self.agent.policy.features_extractor.parameters())

    def peak_rss_mb(self) -> float | None:
        """Peak memory of this process and of the processes that step its games, together."""
        peaks = [peak_rss_mb(process) for process in ("self", *self.workers)]
        return None if None in peaks else sum(peaks)


def synchronise(device: torch.device) -> None:
    """Wait for a GPU; a CPU has done its work when the call returns."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def gpu_peak_mb(device: str) -> float | None:
    """Most GPU memory that tensors of this process have taken, in MB; None without a GPU."""
    return torch.cuda.max_memory_allocated(device) / 1e6 if device.startswith("cuda") else None


def recipe(agent: str, options: argparse.Namespace, changes: Sequence[str] = ()) -> RunConfig:
    """A shipped recipe as the options change it; what a measurement itself changes comes last.

    Raises:
        UserError: it does not exist, or a change is none.
    """
    alike = [] if options.as_shipped else [_EQUAL_NETWORKS]
    return resolve(options.game, agent, device=options.device, overrides=[*alike, *options.set, *changes])


def freezing(config: RunConfig) -> RunConfig:
    """The recipe with a BLIP that consolidates over one rollout, and then freezes 4 bits.

    A first task of one iteration would otherwise leave nothing to project onto.
    """
    if config.agent.method["name"] != "blip":
        return config
    samples = config.agent.ppo.rollout_steps * config.agent.ppo.environments
    method = config.agent.method | {"fisher_samples": samples, "first_task_bits": 4}
    method.pop("first_task_drift", None)  # one of the two
    return config.model_copy(update={"agent": config.agent.model_copy(update={"method": method})})


def build(name: str, options: argparse.Namespace, stack: ExitStack) -> Contestant:
    """A rival by its name, or one of our agents, in its second task; the stack closes it."""
    print(f"building {name} …", file=sys.stderr)
    if name in RIVALS:
        return build_rival(name, recipe("finetune", options), stack)
    return build_ours(freezing(recipe(name, options)), stack, tasks=1)


def build_rival(name: str, config: RunConfig, stack: ExitStack) -> Contestant:
    """stable-baselines3 over one of three kinds of environments, after a first iteration."""
    if name == "envpool":
        env = envpool_env(config)
    else:
        env = stock_env(config, SubprocVecEnv if name == "stock-subproc" else DummyVecEnv)
    stack.callback(env.close)
    contestant = Contestant(stock_ppo(config, env))
    contestant.learn(1)
    return contestant


def build_ours(config: RunConfig, stack: ExitStack, tasks: int) -> Contestant:
    """A blip-rl agent that has consolidated so many tasks, of one iteration each, and begun the next."""
    games = config.agent.ppo.environments
    groups = config.compute.groups(config.device, games)
    env = make_training_env(config.tasks[0], config.atari, games, seed=0, groups=groups)
    stack.callback(env.close)
    method = make_method(config.agent.method)
    agent = ContinualPPO(config.agent, "task-1", env, seed=0, device=config.device, compute=config.compute)
    contestant = Contestant(agent, method)
    for number in range(2, tasks + 2):
        with agent.protected_by(method):
            contestant.learn(1)
        _consolidate(contestant, agent, method)
        agent.switch_task(f"task-{number}", env)
    stack.enter_context(agent.protected_by(method))
    contestant.learn(1)
    return contestant


def _consolidate(contestant: Contestant, agent: ContinualPPO, method: Method) -> None:
    contestant.wait()
    begun = time.perf_counter()
    finished = agent.finished_task(method.samples_wanted, torch.Generator().manual_seed(0))
    contestant.consolidation = method.end_task(finished)
    contestant.wait()
    contestant.consolidation_seconds = time.perf_counter() - begun


def missing(name: str) -> str | None:
    """Why a contestant cannot be measured here; None if it can."""
    return envpool_missing() if name == "envpool" else None


def check_alike(contestants: dict[str, Contestant]) -> None:
    """Stop if two contestants would not do the same work."""
    work = {name: work_of(contestant.agent) for name, contestant in contestants.items()}
    if len(set(work.values())) > 1:
        sys.exit("the contestants differ:\n" + "\n".join(f"{name}: {value}" for name, value in work.items()))
