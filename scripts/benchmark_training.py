"""Measure training speed (rollouts and updates) and memory: stock stable-baselines3 PPO, fine-tuning, BLIP and others.

    python scripts/benchmark_training.py --out training.json
    python scripts/benchmark_training.py --subproc --profile --game kung_fu_master
    python scripts/benchmark_training.py --agents finetune blip ewc clear --repeats 3 --updates 1

All contestants train the same layers with the same PPO numbers on the same game, and take turns, so that a machine
that slows down slows all of them. blip-rl's agents are those of the recipes in --agents, which may have a scale
and shift per task on top (--set trunk.task_modulation=false: without); each is measured in its second task, after a
first of one iteration. A step is one decision of one environment. Run
it on an idle machine: torch gets --threads, but emulators take the cores they find (taskset limits both).
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from _measure import (
    add_common_options,
    cell,
    markdown_table,
    peak_rss_mb,
    positive_int,
    provenance,
    run_alone,
    show,
    timed,
)
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_atari_env
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecFrameStack, VecTransposeImage
from torch import nn

from blip_rl.config import ImageTrunkConfig, PpoConfig, RunConfig
from blip_rl.errors import UserError
from blip_rl.learner.ppo import ContinualPPO
from blip_rl.methods import make_method
from blip_rl.methods.base import Method
from blip_rl.recipes import resolve
from blip_rl.tasks.games import is_gymnasium_id, rom_name
from blip_rl.tasks.make import make_training_env

STOCK = {
    "stock": "stable-baselines3 PPO, DummyVecEnv",
    "stock-subproc": "stable-baselines3 PPO, SubprocVecEnv",
}
PARTS = ("emulator", "inference", "update: forward and backward", "optimizer", "method, after each step", "rest")


class StockTrunk(BaseFeaturesExtractor):
    """The recipe's trunk, as a user of plain stable-baselines3 would write it."""

    def __init__(self, observation_space: Any, config: ImageTrunkConfig) -> None:
        super().__init__(observation_space, features_dim=config.hidden[-1])
        layers: list[nn.Module] = []
        for channels, kernel, stride in config.conv:
            layers += [nn.LazyConv2d(channels, kernel, stride), nn.ReLU()]
        layers.append(nn.Flatten())
        for units in config.hidden:
            layers += [nn.LazyLinear(units), nn.ReLU()]
        self.layers = nn.Sequential(*layers)
        self.layers(torch.zeros(1, *observation_space.shape))  # lazy layers learn their sizes

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        """Images, shape (batch, channels, height, width) → features, shape (batch, features_dim)."""
        return self.layers(observations)


def title(name: str) -> str:
    """How a table calls a contestant."""
    return STOCK.get(name, f"blip-rl {name}, second task")


@dataclass
class Contestant:
    """One agent, warm and ready to be timed."""

    agent: PPO
    method: Method | None = None
    consolidation: dict[str, float] = field(default_factory=dict)
    """What the method reported at the end of the first task."""
    consolidation_seconds: float | None = None

    def state_bytes_per_parameter(self) -> float | None:
        """What the method remembers, over the parameters of the trunk."""
        if self.method is None:
            return None
        held = sum(tensor.nbytes for tensor in self.method.state().tensors.values())
        return held / sum(parameter.numel() for parameter in self.agent.policy.trunk.parameters())

    def learn(self, updates: int) -> float:
        """Run whole PPO iterations; return steps per second."""
        steps = updates * self.agent.n_steps * self.agent.n_envs
        begun = time.perf_counter()
        self.agent.learn(steps, reset_num_timesteps=False)
        return steps / (time.perf_counter() - begun)

    def peak_rss_mb(self) -> float | None:
        """Peak memory of this process and of the processes that step its games, together."""
        assert self.agent.env is not None
        workers = [process.pid for process in getattr(self.agent.env.unwrapped, "processes", [])]
        peaks = [peak_rss_mb(process) for process in ("self", *workers)]
        return None if None in peaks else sum(peaks)


def main() -> None:
    """Measure, print a table, write JSON."""
    options = _options()
    torch.set_num_threads(options.threads)
    stock = ["stock", "stock-subproc"] if options.subproc else ["stock"]
    names = [options.only] if options.only else [*stock, *options.agents]
    results = {**provenance(), "settings": {key: value for key, value in vars(options).items() if key != "out"}}
    alone = {} if options.only or not options.memory else {name: _peak_alone(name) for name in names}
    with ExitStack() as stack:
        contestants = {name: _build(name, options, stack) for name in names}
        _check_alike(contestants)
        speeds = _measure(contestants, options)
        if options.only:
            alone = {options.only: contestants[options.only].peak_rss_mb()}
        if options.profile:
            ours = {name: c for name, c in contestants.items() if c.method}
            results["profile"] = {name: _profile(c, options.repeats * options.updates) for name, c in ours.items()}
        results |= _summary(speeds, alone or dict.fromkeys(names))
        for name, contestant in contestants.items():
            results["contestants"][name] |= {
                "consolidation": contestant.consolidation,
                "consolidation_seconds": contestant.consolidation_seconds,
                "state_bytes_per_parameter": contestant.state_bytes_per_parameter(),
            }
    show(results, _report(results), options.out)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--game", default="boxing", help="Atari game, as blip-rl train knows it (%(default)s)")
    parser.add_argument("--updates", type=positive_int, default=2, help="PPO iterations timed at once (%(default)s)")
    parser.add_argument("--rollout-steps", type=positive_int, help="steps of each environment (the recipe's: 125)")
    parser.add_argument("--subproc", action="store_true", help="also measure stable-baselines3 with SubprocVecEnv")
    parser.add_argument("--agents", nargs="+", default=["finetune", "blip"], metavar="NAME", help="recipes to measure")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change all recipes")
    parser.add_argument("--only", metavar="NAME", help="measure one contestant alone, and its memory")
    parser.add_argument(
        "--profile", action=argparse.BooleanOptionalAction, help="also show where blip-rl spends its time"
    )
    parser.add_argument(
        "--memory",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="run each contestant once more, in a process of its own, for its peak memory",
    )
    add_common_options(parser, repeats=5)
    options = parser.parse_args()
    try:
        configs = [_config(agent, options) for agent in ("finetune", *options.agents)]
    except UserError as error:
        parser.error(str(error))
    game = rom_name(configs[0].tasks[0].game)
    if game is None or not is_gymnasium_id(_stock_id(game)):
        parser.error(f"--game {options.game}: expected an Atari game that stable-baselines3 can play too")
    return options


def _peak_alone(name: str) -> float | None:
    """Memory of a contestant in a process of its own: what the others hold does not count."""
    print(f"memory of {name} …", file=sys.stderr)
    results = run_alone("--only", name, "--repeats", 1, "--no-profile")
    return results["contestants"][name]["peak_rss_mb"]


def _build(name: str, options: argparse.Namespace, stack: ExitStack) -> Contestant:
    """Build a contestant and warm it up; the stack closes it."""
    print(f"building {name} …", file=sys.stderr)
    if not name.startswith("stock"):
        return _build_ours(_config(name, options), stack)
    config = _config("finetune", options)
    contestant = Contestant(_stock_ppo(config, SubprocVecEnv if name == "stock-subproc" else DummyVecEnv, stack))
    contestant.learn(1)
    return contestant


def _config(agent: str, options: argparse.Namespace) -> RunConfig:
    """A recipe as the options change it, but that BLIP consolidates over one rollout and then freezes 4 bits."""
    changes = [f"ppo.rollout_steps={options.rollout_steps}"] if options.rollout_steps else []
    config = resolve(options.game, agent, device="cpu", overrides=[*options.set, *changes])
    samples = config.agent.ppo.rollout_steps * config.agent.ppo.environments
    # A first task of one iteration would leave nothing to project onto.
    frozen = {"fisher_samples": samples, "first_task_bits": 4} if agent == "blip" else {}
    method = config.agent.method | frozen
    return config.model_copy(update={"agent": config.agent.model_copy(update={"method": method})})


def _build_ours(config: RunConfig, stack: ExitStack) -> Contestant:
    """A blip-rl agent in its second task: the first one was a single iteration, then consolidated."""
    env = make_training_env(config.tasks[0], config.atari, config.agent.ppo.environments, seed=0)
    stack.callback(env.close)
    method = make_method(config.agent.method)
    agent = ContinualPPO(config.agent, "first", env, seed=0, device=config.device)
    contestant = Contestant(agent, method)
    with agent.protected_by(method):
        contestant.learn(1)
    begun = time.perf_counter()
    finished = agent.finished_task(method.samples_wanted, torch.Generator().manual_seed(0))
    contestant.consolidation = method.end_task(finished)
    contestant.consolidation_seconds = time.perf_counter() - begun
    agent.switch_task("second", env)
    stack.enter_context(agent.protected_by(method))
    contestant.learn(1)
    return contestant


def _stock_id(rom: str) -> str:
    """The Gymnasium id that AtariWrapper asks for; the prefix registers it, also in worker processes."""
    return f"ale_py:{rom.title().replace('_', '')}NoFrameskip-v4"


def _stock_ppo(config: RunConfig, vec_env: type[VecEnv], stack: ExitStack) -> PPO:
    """Plain stable-baselines3, with the network and the numbers of the recipe."""
    ppo, trunk = config.agent.ppo, config.agent.trunk.image
    rom = rom_name(config.tasks[0].game)
    assert rom is not None
    games = make_atari_env(_stock_id(rom), n_envs=ppo.environments, seed=0, vec_env_cls=vec_env)
    env = VecTransposeImage(VecFrameStack(games, config.atari.frame_stack))
    stack.callback(env.close)
    policy = {
        "features_extractor_class": StockTrunk,
        "features_extractor_kwargs": {"config": trunk},
        "net_arch": [],  # unless told, stable-baselines3 puts two layers of 64 behind a custom extractor
        "optimizer_kwargs": {"eps": ppo.adam_epsilon},
    }
    return PPO("CnnPolicy", env, policy_kwargs=policy, seed=0, device=config.device, **_numbers(ppo))


def _numbers(ppo: PpoConfig) -> dict[str, Any]:
    """A recipe's PPO section under stable-baselines3's names."""
    linear = ppo.learning_rate_schedule == "linear"
    return {
        "learning_rate": (lambda left: left * ppo.learning_rate) if linear else ppo.learning_rate,
        "n_steps": ppo.rollout_steps,
        "batch_size": ppo.rollout_steps * ppo.environments // ppo.minibatches,
        "n_epochs": ppo.epochs,
        "gamma": ppo.discount,
        "gae_lambda": ppo.gae_lambda,
        "clip_range": ppo.clip_range,
        "clip_range_vf": ppo.clip_range_value,
        "ent_coef": ppo.entropy_coefficient,
        "vf_coef": ppo.value_coefficient,
        "max_grad_norm": ppo.max_gradient_norm,
    }


def _check_alike(contestants: dict[str, Contestant]) -> None:
    """Stop if two contestants would not do the same work."""
    names = ("n_envs", "n_steps", "batch_size", "n_epochs", "ent_coef", "vf_coef", "max_grad_norm", "action_space")
    work = {}
    for name, contestant in contestants.items():
        agent = contestant.agent
        layers = [tuple(p.shape) for p in agent.policy.features_extractor.parameters()]
        heads = (agent.policy.action_net, agent.policy.value_net)
        work[name] = str([*(getattr(agent, n) for n in names), agent.observation_space.shape, layers, heads])
    if len(set(work.values())) > 1:
        sys.exit("the contestants differ:\n" + "\n".join(f"{name}: {value}" for name, value in work.items()))


def _measure(contestants: dict[str, Contestant], options: argparse.Namespace) -> dict[str, list[float]]:
    """Steps per second of each contestant in each round; every round begins with another one."""
    names = list(contestants)
    speeds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(options.repeats):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            speeds[name].append(contestants[name].learn(options.updates))
        shown = ", ".join(f"{name} {values[-1]:.0f}" for name, values in speeds.items())
        print(f"round {turn + 1} of {options.repeats}: {shown} steps/s", file=sys.stderr)
    return speeds


def _summary(speeds: dict[str, list[float]], peaks: dict[str, float | None]) -> dict[str, Any]:
    """Medians; contestants are compared round by round, within which the machine was the same."""
    contestants = {
        name: {
            "title": title(name),
            "steps_per_second": statistics.median(values),
            "steps_per_second_all": values,
            "ratio_to_stock": _median_ratio(values, speeds.get("stock")),
            "peak_rss_mb": peaks[name],
        }
        for name, values in speeds.items()
    }
    for name, values in speeds.items():
        slowdown = None if name in STOCK else _median_ratio(speeds.get("finetune"), values)
        contestants[name]["slowdown_percent"] = None if slowdown is None else 100 * (slowdown - 1)
    return {"contestants": contestants}


def _median_ratio(above: list[float] | None, below: list[float] | None) -> float | None:
    return statistics.median(a / b for a, b in zip(above, below, strict=True)) if above and below else None


def _profile(contestant: Contestant, updates: int) -> dict[str, float]:
    """Share of each part in the time of some more PPO iterations."""
    agent, seconds = contestant.agent, defaultdict(float)
    with (
        timed(agent.env, "step", seconds),
        timed(agent.policy, "forward", seconds),
        timed(agent, "train", seconds),
        timed(agent.policy.optimizer, "step", seconds, "optimizer"),
        timed(contestant.method, "after_step", seconds),
        timed(contestant, "learn", seconds),
    ):
        contestant.learn(updates)
    # The projection hangs on the optimizer's step, and that is called by train().
    parts = [
        seconds["step"],
        seconds["forward"],
        seconds["train"] - seconds["optimizer"],
        seconds["optimizer"] - seconds["after_step"],
        seconds["after_step"],
        seconds["learn"] - seconds["step"] - seconds["forward"] - seconds["train"],
    ]
    return {name: part / seconds["learn"] for name, part in zip(PARTS, parts, strict=True)}


def _report(results: dict[str, Any]) -> str:
    rows = [
        [
            c["title"],
            cell(c["steps_per_second"]),
            " ".join(cell(value) for value in c["steps_per_second_all"]),
            cell(c["ratio_to_stock"], ".2f"),
            cell(c["slowdown_percent"], "+.1f"),
            cell(c["peak_rss_mb"]),
            cell(c["state_bytes_per_parameter"], ".1f"),
            cell(c["consolidation_seconds"], ".1f"),
        ]
        for c in results["contestants"].values()
    ]
    header = [
        *["agent", "steps/s, median", "steps/s, each round", "× stock", "slower than fine-tune, %"],
        *["peak memory, MB", "bytes kept per trunk parameter", "end of a task, s"],
    ]
    text = markdown_table(header, rows)
    if profile := results.get("profile"):
        shares = [[part, *(f"{100 * profile[name][part]:.1f} %" for name in profile)] for part in PARTS]
        text += "\n\n" + markdown_table(["share of training time", *(title(name) for name in profile)], shares)
    return text


if __name__ == "__main__":
    main()
