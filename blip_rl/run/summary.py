"""What a run says in words: its opening line, one line at each boundary, the closing table."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from torch import Tensor

from blip_rl.config import RunConfig
from blip_rl.run.monitor import overall_mean
from blip_rl.run.scores import ScoreBook


def opening_text(config: RunConfig, path: Path, device: str) -> str:
    """What is about to be learned, how and where it is written."""
    games = ", ".join(task.name for task in config.tasks)
    steps = sum(task.steps for task in config.tasks)
    rollout = config.agent.ppo.environments * config.agent.ppo.rollout_steps
    rounded = any(task.steps % rollout for task in config.tasks)
    note = f" (each rounded up to whole rollouts of {rollout:,})" if rounded else ""
    return (
        f"{config.agent_name} learns {games}: {steps:,} steps{note} on {device}, seed {config.seed}\n"
        f"run folder {path} (live: tensorboard --logdir {path})"
    )


def boundary_line(config: RunConfig, scores: ScoreBook, stage: int, frozen: dict[str, Tensor]) -> str:
    """Scores on every task seen, before and after consolidation of the stage."""
    parts = []
    for index, task in enumerate(config.tasks[:stage]):
        before, after = scores.before[stage - 1, index], scores.after[stage - 1, index]
        parts.append(f"{task.name} {before:.1f} → {after:.1f}" if before != after else f"{task.name} {after:.1f}")
    bits = f"; {overall_mean(frozen):.2f} bits frozen on average" if frozen else ""
    return f"after {config.tasks[stage - 1].name}: {', '.join(parts)}{bits}"


def closing_text(config: RunConfig, scores: ScoreBook, path: Path) -> str:
    """The score matrix with both sides of each boundary, the metrics, and where to look next."""
    return "\n".join(
        [
            "",
            *_score_table(config, scores),
            "",
            *_metric_lines(config, scores),
            "",
            f"watch      tensorboard --logdir {path}",
            f"re-score   blip-rl evaluate {path}",
            f"files      {path}/scores.csv, bits.csv, config.toml, checkpoints/",
        ]
    )


def _score_table(config: RunConfig, scores: ScoreBook) -> list[str]:
    names = [task.name for task in config.tasks]
    rows = [["mean raw return", "", *names]]
    for stage, name in enumerate(names, start=1):
        for phase, matrix in (("before", scores.before), ("after", scores.after)):
            cells = ["" if math.isnan(v) else f"{v:.1f}" for v in matrix[stage - 1].tolist()]
            label = f"learned {name}" if phase == "before" else ""
            rows.append([label, f"{phase} consolidation", *cells])
    return aligned(rows)


def _metric_lines(config: RunConfig, scores: ScoreBook) -> list[str]:
    summary = scores.summary(len(config.tasks))
    if math.isnan(summary["acc"]):
        return ["no normalised scores: a task of this sequence has no random_score and reference_score in its recipe"]
    total = float(np.sum(scores.latest))
    bwt = "undefined for one task" if math.isnan(summary["bwt"]) else f"{summary['bwt']:+.3f}"
    return [
        f"ACC {summary['acc']:.3f}   BWT {bwt}   accumulated normalised reward {total:.3f} of {len(config.tasks)}",
        "(0 = random play, 1 = the reference score of the recipe)",
    ]


def aligned(rows: list[list[str]]) -> list[str]:
    """Columns side by side: the first two to the left, numbers to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
