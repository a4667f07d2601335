"""The end of a task: score it, distil it where it was learned apart, let the method consolidate it, score again."""

from __future__ import annotations

import torch
from torch import Tensor

from blip_rl.learner.apart import LearnApart
from blip_rl.learner.distil import Distilled, distil
from blip_rl.learner.ppo import ContinualPPO
from blip_rl.records import BitsRow
from blip_rl.run.context import RunContext
from blip_rl.run.tensorboard import log_bits, log_method_metrics
from blip_rl.storage.checkpoint import trunk_bytes


def consolidate(run: RunContext, agent: ContinualPPO, stage: int) -> None:
    """End a task. The scores before are those of what was learned, so that both together show what this costs.

    Raises:
        FloatingPointError: distilling diverged, or the Fisher is not finite.
    """
    task, policy = run.config.tasks[stage - 1], agent.policy
    played = run.scores.evaluate(policy, stage, "before", agent.num_timesteps)
    distilled = _distil(run, agent, task.name)
    steps, weights_before = agent.num_timesteps, trunk_bytes(policy.trunk)
    generator = torch.Generator().manual_seed(run.config.seed * 1_000 + stage)
    try:
        figures = run.method.end_task(agent.finished_task(run.method.samples_wanted, generator))
    except FloatingPointError as error:
        raise FloatingPointError(f"{error} (consolidating {task.name} after step {steps:,})") from error
    log_method_metrics(run.logger, run.console, task.name, figures)
    frozen = run.method.frozen_bits()
    if frozen:
        log_bits(run.logger, frozen, run.method.total_bits, task.name, steps)
        run.folder.add_bits(bits_rows(frozen, stage))
    same_weights = not distilled and trunk_bytes(policy.trunk) == weights_before
    if same_weights and run.config.evaluation.actions == "greedy":
        # Same weights, same seeds, greedy actions: the same games would be played again.
        run.scores.record(played, stage, "after", steps)
    else:
        run.scores.evaluate(policy, stage, "after", steps)


def _distil(run: RunContext, agent: ContinualPPO, task: str) -> bool:
    """Distil a task that was learned apart; return whether it was."""
    if not (isinstance(run.method, LearnApart) and run.method.apart):
        return False
    settings = run.config.agent.distil
    with run.console.counter(f"distilling {task}", settings.updates, "update") as bar:

        def on_update() -> None:
            run.stop.check()
            bar.update()

        distilled = distil(agent, run.method, settings, on_update)
    run.console.say(_line(task, distilled))
    run.logger.record("distil/divergence", distilled.divergence)
    run.logger.record("distil/value_error", distilled.value_error)
    if distilled.agreement is not None:
        run.logger.record("distil/agreement", distilled.agreement)
    run.logger.record("time/distilling_seconds", distilled.seconds)
    run.logger.dump(agent.num_timesteps)
    return True


def _line(task: str, distilled: Distilled) -> str:
    same = "" if distilled.agreement is None else f", the same greedy action in {distilled.agreement:.1%} of the states"
    return f"distilled {task}: {distilled.divergence:.2g} nats from its teacher{same}, {distilled.seconds:.1f} s"


def bits_rows(frozen: dict[str, Tensor], stage: int) -> list[BitsRow]:
    """Histogram of frozen bits of every trunk parameter, as rows of ``bits.csv``."""
    rows = []
    for name, tensor in frozen.items():
        layer, _, parameter = name.rpartition(".")
        for bits, count in enumerate(tensor.flatten().int().bincount().tolist()):
            if count:
                rows.append(BitsRow(stage, layer, parameter, bits, count))
    return rows
