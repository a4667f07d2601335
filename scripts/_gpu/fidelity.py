"""Whether the captured update computes what the eager one does.

The same recorded rollouts are given to the same agent several times, each time from the same weights, optimizer and
random generators: without CUDA graphs, once more without, with, and once more with. Differences between the first two
are the noise of the device; those between the paths are to be compared with it.
"""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from typing import Any

import torch
from _benchmark.contestants import Contestant, build_ours, freezing, recipe

from _gpu.results import Results, step_options
from blip_rl.config import ComputeConfig
from blip_rl.learner.state import Snapshot, restore, take
from blip_rl.methods.base import MethodState

AGENTS = ("finetune", "blip", "ewc-kronecker")
_ROLLOUT = ("_observations", "actions", "log_probs", "values", "advantages", "returns")
Tensors = dict[str, torch.Tensor]


def main() -> None:
    """Compare updates of each agent."""
    options = step_options(__doc__.splitlines()[0])
    results = Results(options.out, options.seconds)
    for agent in AGENTS:
        with ExitStack() as stack:
            asked = argparse.Namespace(game="boxing", device=options.device, set=options.set, as_shipped=True)
            config = freezing(recipe(agent, asked))
            contestant = build_ours(config, stack, tasks=1)
            results.put(agent, compare_paths(contestant, options.updates))


def compare_paths(contestant: Contestant, updates: int) -> dict[str, Any]:
    """Replay the same rollouts on both paths, twice each.

    Returns:
        For each comparison: the largest difference of a weight, relative to how far weights moved, the largest
        relative difference of a loss, and whether all weights are equal to the bit.
    """
    agent, method = contestant.agent, contestant.method
    agent._compute = ComputeConfig(capture="off")
    agent.discard_captures()
    contestant.learn(1)
    start, state = take(agent), method.state()
    rollouts = _record_rollouts(contestant, updates)
    found = {
        name: _replay(contestant, start, state, rollouts, capture)
        for name, capture in (
            ("eager", "off"),
            ("eager again", "off"),
            ("captured", "auto"),
            ("captured again", "auto"),
        )
    }
    before = {name[7:]: value for name, value in start.tensors.items() if name.startswith("policy.")}
    pairs = (("eager", "eager again"), ("eager", "captured"), ("captured", "captured again"))
    return {
        "updates": updates,
        "graph_recorded": found["captured"][2],
        "comparisons": {f"{one} – {other}": _difference(before, found[one], found[other]) for one, other in pairs},
    }


def _record_rollouts(contestant: Contestant, count: int) -> list[Tensors]:
    """Continue training and copy each rollout before its update."""
    agent, kept, train = contestant.agent, list[Tensors](), contestant.agent.train

    def keep_and_train() -> None:
        kept.append({name: getattr(agent.rollout_buffer, name).clone() for name in _ROLLOUT})
        train()

    agent.train = keep_and_train  # type: ignore[method-assign]
    contestant.learn(count)
    del agent.train
    return kept


def _replay(
    contestant: Contestant, start: Snapshot, state: MethodState, rollouts: list[Tensors], capture: str
) -> tuple[Tensors, list[float], bool]:
    """Weights and losses after updates on these rollouts, and whether a CUDA graph was replayed."""
    agent, method, losses = contestant.agent, contestant.method, list[float]()
    agent._compute = ComputeConfig(capture=capture)
    restore(agent, start)
    method.load_state(state)
    with agent.protected_by(method, resume=True):
        for rollout in rollouts:
            for name, tensor in rollout.items():
                setattr(agent.rollout_buffer, name, tensor)
            agent.train()
            losses.append(float(agent.logger.name_to_value["train/loss"]))
        captured = agent._captured
        recorded = captured is not None and captured._function._graph is not None
    weights = {name: value.detach().cpu().clone() for name, value in agent.policy.task_state().items()}
    return weights, losses, recorded


def _difference(before: Tensors, one: Any, other: Any) -> dict[str, Any]:
    moved = max((value - before[name]).abs().max().item() for name, value in one[0].items())
    apart = max((value - other[0][name]).abs().max().item() for name, value in one[0].items())
    losses = [abs(a - b) / max(abs(a), 1e-12) for a, b in zip(one[1], other[1], strict=True)]
    return {
        "weights_relative": apart / moved if moved else 0.0,
        "first_loss_relative": losses[0],
        "losses_relative": max(losses),
        "equal": apart == 0,
    }


if __name__ == "__main__":
    main()
