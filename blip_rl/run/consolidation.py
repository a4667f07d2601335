"""The end of a task: evaluate, distil if it was learned apart, consolidate with the method, evaluate again."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from blip_rl.core.weights import copy_weights
from blip_rl.learner.distil import Distilled, distil
from blip_rl.learner.ppo import ContinualPPO
from blip_rl.learner.separate_trunk import LearnApart
from blip_rl.records import BitsRow
from blip_rl.run.context import RunContext
from blip_rl.run.tensorboard import log_bits, log_method_metrics


def consolidate(run: RunContext, agent: ContinualPPO, stage: int) -> None:
    """Evaluate a learned task, (distil and) consolidate it, and evaluate again.

    The scores before are those of the policy as it was learned, so the difference is the cost of distilling and
    consolidating.

    Args:
        run: The run; its agent uses the task.
        agent: The run's agent.
        stage: Number of the stage, counted from 1.

    Raises:
        FloatingPointError: Distilling diverged, or the Fisher information is not finite.
        StopRequestError: A stop was requested; the run resumes from the end of learning.
    """
    task, policy = run.config.task_of(stage), agent.policy
    played = run.scores.evaluate(policy, stage, "before", agent.num_timesteps)
    distilled = _distil(run, agent, task.name)
    steps, weights_before = agent.num_timesteps, copy_weights(policy.protected)
    generator = torch.Generator().manual_seed(run.config.seed * 1_000 + stage)
    try:
        metrics = run.method.end_task(agent.finished_task(run.method.samples_wanted, generator))
    except FloatingPointError as error:
        raise FloatingPointError(f"{error} (consolidating {task.name} after step {steps:,})") from error
    log_method_metrics(run.logger, run.console, task.name, metrics)
    frozen = run.method.frozen_bits()
    if frozen:
        log_bits(run.logger, frozen, run.method.total_bits, task.name, steps)
        run.folder.add_bits(bits_rows(frozen, stage))
    same_weights = not distilled and _unchanged(policy.protected, weights_before)
    if same_weights and run.config.evaluation.actions == "greedy":
        # Same weights, same seeds and greedy actions give the same episodes: reuse them.
        run.scores.record(played, stage, "after", steps)
    else:
        run.scores.evaluate(policy, stage, "after", steps)


def _unchanged(trunk: nn.Module, before: dict[str, Tensor]) -> bool:
    return all(torch.equal(weight, before[name]) for name, weight in trunk.named_parameters())


def _distil(run: RunContext, agent: ContinualPPO, task: str) -> bool:
    """Distil the task if it was learned apart; return whether it was."""
    if not (isinstance(run.method, LearnApart) and run.method.apart):
        return False
    settings = run.config.agent.distil
    with run.console.counter(f"distilling {task}", settings.updates, "update") as bar:

        def on_update() -> None:
            run.stop.check()
            bar.update()

        distilled = distil(agent, run.method, settings, on_update, rollouts=run.rollout_states)
    run.rollout_states.replace(None)
    run.console.say(_line(task, distilled))
    run.logger.record("distil/divergence", distilled.divergence)
    run.logger.record("distil/value_error", distilled.value_error)
    if distilled.agreement is not None:
        run.logger.record("distil/agreement", distilled.agreement)
    run.logger.record("time/distilling_seconds", distilled.seconds)
    run.logger.dump(agent.num_timesteps)
    return True


def _line(task: str, distilled: Distilled) -> str:
    same = "" if distilled.agreement is None else f", same greedy action in {distilled.agreement:.1%} of the states"
    return f"distilled {task}: KL to the teacher {distilled.divergence:.2g} nats{same}, {distilled.seconds:.1f} s"


def bits_rows(frozen: dict[str, Tensor], stage: int) -> list[BitsRow]:
    """Count the weights of every trunk parameter by their number of frozen bits.

    Args:
        frozen: Trunk parameter → frozen bits of each of its weights.
        stage: Number of the stage, counted from 1.

    Returns:
        Rows of ``bits.csv``; numbers of bits that no weight has are left out.
    """
    rows = []
    for name, tensor in frozen.items():
        layer, _, parameter = name.rpartition(".")
        for bits, count in enumerate(tensor.flatten().int().bincount().tolist()):
            if count:
                rows.append(BitsRow(stage, layer, parameter, bits, count))
    return rows
