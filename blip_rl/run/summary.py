"""Text that a run prints: an opening text, one line at the end of each task, and the closing score table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from blip_rl.config import RunConfig
from blip_rl.core import metrics
from blip_rl.core.score_matrix import select_columns
from blip_rl.formatting import aligned, score_text
from blip_rl.reference_scores import task_scale
from blip_rl.run.scores import ScoreBook
from blip_rl.run.tensorboard import overall_mean
from blip_rl.shell import shell_command

_LEVELS = ("ACC", "ACC: worst game", "accumulated reward")
"""Metrics that are scores; the others are differences and are printed with their sign."""


def opening_text(config: RunConfig, path: Path, device: str) -> str:
    """Return the text printed at the start: agent, tasks, steps, device, seed and run folder."""
    games = ", ".join(task.name for task in config.tasks)
    steps = config.all_played_steps
    rollout = config.agent.ppo.environments * config.agent.ppo.rollout_steps
    rounded = steps != config.total_steps
    note = f" (each rounded up to whole rollouts of {rollout:,})" if rounded else ""
    scored = any(task.has_normalisers for task in config.tasks)
    scale = f"normalised scores: {task_scale(config.tasks)}\n" if scored else ""
    return (
        f"{config.agent_name} learns {games}: {steps:,} steps{note} on {device}, seed {config.seed}\n"
        f"{scale}run folder {path}\n"
        f"live: {shell_command('blip-rl', 'watch', path)}, or {shell_command('tensorboard', '--logdir', path)}"
    )


def boundary_line(config: RunConfig, scores: ScoreBook, stage: int, frozen: dict[str, Tensor]) -> str:
    """Return the line printed at the end of a task: scores of every task seen, before → after consolidation."""
    parts = []
    for index, task in enumerate(config.seen(stage)):
        before, after = scores.before[stage - 1, index], scores.after[stage - 1, index]
        change = f"{score_text(before)} → " if before != after else ""
        parts.append(f"{task.name} {change}{score_text(after)}")
    bits = f"; {overall_mean(frozen):.2f} bits frozen on average" if frozen else ""
    return f"after {stage_title(config, stage)}: {', '.join(parts)}{bits}"


def stage_title(config: RunConfig, stage: int) -> str:
    """Return the name of a stage: its task and, where tasks come back, which visit it is."""
    return f"{config.task_of(stage).name}{config.visit_label(stage)}"


def closing_text(config: RunConfig, scores: ScoreBook, path: Path) -> str:
    """Return the text printed at the end: the score matrix, the metrics, and commands to continue with."""
    return "\n".join(
        [
            "",
            *_score_table(config, scores),
            "",
            *_metric_lines(config, scores),
            "",
            f"curves     {shell_command('tensorboard', '--logdir', path)}",
            f"report     {shell_command('blip-rl', 'report', path)}",
            f"pictures   {shell_command('blip-rl', 'render', path)}",
            f"bits       {shell_command('blip-rl', 'inspect', path)}",
            f"re-score   {shell_command('blip-rl', 'evaluate', path)}",
            f"files      {path}/scores.csv, returns.csv, bits.csv, plasticity.csv, config.toml, checkpoints/",
        ]
    )


def _score_table(config: RunConfig, scores: ScoreBook) -> list[str]:
    names = [task.name for task in config.tasks]
    rows = [["mean raw return", "", *names]]
    for stage in config.all_stages:
        label = "learned together" if _together(scores) else f"learned {stage_title(config, stage)}"
        for phase, matrix in (("before", scores.before), ("after", scores.after)):
            if not np.isnan(matrix[stage - 1]).all():
                cells = ["" if math.isnan(v) else score_text(v) for v in matrix[stage - 1].tolist()]
                rows.append([label, f"{phase} consolidation", *cells])
                label = ""
    return aligned(rows)


def _metric_lines(config: RunConfig, scores: ScoreBook) -> list[str]:
    """Return a table of every metric over raw returns and over normalised scores, with why one is undefined."""
    names = [task.name for task in config.tasks]
    everything = range(len(names))
    kept = [index for index in everything if config.tasks[index].has_normalisers]
    raw = _metrics(scores.after, config.visits, everything)
    normalised = _metrics(scores.normalised(scores.after), config.visits, kept) if kept else {}
    why = "one task" if len(names) == 1 else "learned together" if _together(scores) else "not measured"
    rows = [["metric", "", "raw return", "normalised"]]
    for (metric, task), value in raw.items():
        signed = metric not in _LEVELS
        rows.append(
            [
                metric,
                "" if task is None else names[task],
                _number(value, signed, why),
                _number(
                    normalised.get((metric, task), math.nan),
                    signed,
                    why if math.isnan(value) else _why_not(config, task),
                ),
            ]
        )
    if config.comes_back:
        rows.append(
            ["last-cycle sum", "", _number(scores.last_cycle_sum(config.stages), False, "no episode ended"), ""]
        )
    return [*aligned(rows), *_notes(config)]


def _together(scores: ScoreBook) -> bool:
    """Return whether all tasks were learned at once, and so evaluated at the end only."""
    return len(scores.after) > 1 and bool(np.isnan(scores.after[:-1]).all())


def _why_not(config: RunConfig, task: int | None) -> str:
    """Return why a metric that is defined for raw returns is not defined for normalised ones."""
    one_left = task is None and sum(one.has_normalisers for one in config.tasks) == 1
    return "one normalised task" if one_left else "no normalisers"


def _metrics(scores: np.ndarray, order: Sequence[int], tasks: Sequence[int]) -> dict[tuple[str, int | None], float]:
    """Return (metric, index of its task or None) → value over some tasks, for a score matrix (stages, tasks)."""
    matrix, visits = select_columns(scores, order, tasks)
    lost = zip(tasks, metrics.forgetting(matrix, visits).tolist(), strict=True)
    forgetting = {task: value for task, value in lost if task != order[-1]}  # nothing is learned after the last task
    return {
        ("ACC", None): metrics.average_performance(matrix),
        ("ACC: worst game", None): metrics.worst_performance(matrix),
        ("BWT", None): metrics.backward_transfer(matrix, visits),
        ("BWT: worst game", None): metrics.worst_backward_transfer(matrix, visits),
        ("accumulated reward", None): metrics.accumulated(matrix[-1]),
        **{("forgetting", task): value for task, value in (forgetting or {0: math.nan}).items()},
    }


def _number(value: float, signed: bool, why: str) -> str:
    return f"undefined ({why})" if math.isnan(value) else score_text(value, signed=signed)


def _notes(config: RunConfig) -> list[str]:
    bare = [task.name for task in config.tasks if not task.has_normalisers]
    scale = f"normalised: {task_scale(config.tasks)}"
    missing = f"not normalised: {', '.join(bare)}, for which the recipe gives no random_score and reference_score"
    missing += "" if len(bare) == len(config.tasks) else "; normalised metrics are over the other games"
    return [
        *([] if len(bare) == len(config.tasks) else [scale]),
        *([missing] if bare else []),
        *(
            ["forgetting: score just after learning − score at the end (report: best − end)"]
            if len(config.tasks) > 1
            else []
        ),
        *(["last-cycle sum: mean training return in each game's last visit, summed"] if config.comes_back else []),
    ]
