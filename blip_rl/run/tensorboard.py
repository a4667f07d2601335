"""TensorBoard output of a run: recipe and command, Custom Scalars layout, HParams, frozen bits, method metrics.

Everything goes through stable-baselines3's logger into the run's event file.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from stable_baselines3.common.logger import HParam, Image, Logger, TensorBoardOutputFormat
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from blip_rl.config import RunConfig
from blip_rl.console import Console, optional_picture
from blip_rl.formatting import flatten
from blip_rl.storage.run_folder import RunFolder
from blip_rl.task_schedule import TaskConfig
from blip_rl.tracking.events import EventFile
from blip_rl.tracking.tracker import trackers
from blip_rl.tracking.values import NOT_AS_TEXT, Document


class LockedEventFile(EventFile):
    """Writes TensorBoard events to a run folder until another process takes the run over.

    Checked before a set of values is handed to TensorBoard, whose thread opens the event file again for each event. If
    the process is suspended in between, it can still write this one set when it continues, so a curve may contain a
    point twice. No result is computed from this file.
    """

    def __init__(self, folder: RunFolder) -> None:
        folder.check_lock()
        super().__init__(str(folder.path))
        self._folder = folder

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """Write one set of values.

        Raises:
            TakenOverError: Another process has taken the run over; nothing is written.
        """
        self._folder.check_lock()
        super().write(key_values, key_excluded, step)


def describe_run(logger: Logger, config: RunConfig, folder: RunFolder) -> None:
    """Write the command and the recipe as text, the layout of the Custom Scalars page, and the HParams page.

    HParams gets the metrics' names only: TensorBoard shows the newest value of each of these scalars.
    """
    for writer in event_writers(logger):
        writer.add_custom_scalars(layout(config))
    command, recipe = folder.command(), folder.recipe()
    # As Markdown: a line of code, which is wrapped as a block would not be, and a block.
    logger.record("run/command", Document("command.txt", command, f"`` {command.strip()} ``"), NOT_AS_TEXT)
    logger.record("run/config", Document("config.toml", recipe, f"```toml\n{recipe}```"), NOT_AS_TEXT)
    settings = HParam(hyperparameters(config), dict.fromkeys(metric_tags(config), 0.0))
    logger.record("settings", settings, NOT_AS_TEXT)
    logger.dump(0)


def log_report(logger: Logger, folder: RunFolder, env_steps: int) -> None:
    """Send the report page to trackers, and mark their runs as finished; do nothing without a tracker."""
    for tracker in trackers(logger):
        tracker.finished = True
    if trackers(logger):
        with optional_picture("the report"), tempfile.TemporaryDirectory() as out:
            # Imported here, as are the heatmaps below: matplotlib would delay a run's start by 0.5 s.
            from blip_rl.reporting.page import write_report

            page = write_report([folder.path], out=Path(out)).page.read_text(encoding="utf-8")
            logger.record("run/report", Document("report.html", page), NOT_AS_TEXT)
            logger.dump(env_steps)


def event_writers(logger: Logger) -> list[SummaryWriter]:
    """Return the writers of the logger's TensorBoard event files."""
    return [output.writer for output in logger.output_formats if isinstance(output, TensorBoardOutputFormat)]


def layout(config: RunConfig) -> dict[str, dict[str, list[Any]]]:
    """Return page → chart → [kind, tags]; one chart shows all games or all layers. Tags are regular expressions."""
    charts = {
        "games": {
            "normalised score": [f"eval/{_escaped(task)}/normalised" for task in config.tasks if task.has_normalisers],
            "mean return": [f"eval/{_escaped(task)}/return" for task in config.tasks],
            "mean return of training episodes": [f"rollout/{_escaped(task)}/ep_rew_mean" for task in config.tasks],
        },
        "continual learning": {
            "accumulated normalised reward": ["continual/accumulated_normalised_reward"],
            "ACC and BWT": ["continual/(acc|bwt)"],
            "worst game": ["continual/(worst_task|worst_bwt)"],
            "consolidation loss": ["consolidation_loss/.*"],
        },
        "bits": {
            "mean frozen bits": ["bits/mean_frozen"],
            "mean frozen bits of each layer": ["bits/.*/mean_frozen"],
            "share of weights without information": [r"method/without_information/.*\.weight"],
        },
        "plasticity": {
            "share of dormant units": ["plasticity/.*/dormant_share"],
            "effective rank": ["plasticity/.*/effective_rank"],
            "gradient norm": ["plasticity/.*/gradient_norm"],
            "free bits": ["plasticity/.*/free_bits"],
        },
    }
    # TensorBoard matches prefixes: continual/acc would also select continual/accumulated_normalised_reward.
    return {
        page: {chart: ["Multiline", [f"{tag}$" for tag in tags]] for chart, tags in of_page.items() if tags}
        for page, of_page in charts.items()
    }


def hyperparameters(config: RunConfig) -> dict[str, bool | str | float | None]:
    """Return the hyperparameters that distinguish runs, flattened: ``ppo.learning_rate``, ``method.gain``, …."""
    unused = set() if config.agent.learning == "distil" else {"distil"}
    agent = config.agent.model_dump(exclude={"description", *unused})
    return {
        "agent": config.agent_name,
        "sequence": config.sequence_name,
        "seed": config.seed,
        "steps": config.total_steps,
        **{key: _loggable(value) for key, value in flatten(agent) if value is not None},
    }


def metric_tags(config: RunConfig) -> list[str]:
    """Return the tags of the continual-learning metrics and of each game's latest score."""
    run = ["continual/acc", "continual/bwt", "continual/accumulated_normalised_reward"]
    normalised = any(task.has_normalisers for task in config.tasks)
    games = [f"eval/{task.name}/{'normalised' if task.has_normalisers else 'return'}" for task in config.tasks]
    return [*(run if normalised else []), *games]


def _loggable(value: Any) -> bool | str | float:
    """HParams accepts booleans, numbers and strings only."""
    return value if isinstance(value, bool | int | float | str) else str(value)


def _escaped(task: TaskConfig) -> str:
    """Return the task's name as a regular expression; of the characters allowed in names only the dot is special."""
    return task.name.replace(".", r"\.")


def log_heatmap(logger: Logger, tag: str, frozen_bits: Tensor, total_bits: int, title: str) -> None:
    """Record the heatmap of a layer's frozen bits.

    Args:
        logger: The run's logger.
        tag: Name of the image in TensorBoard.
        frozen_bits: Frozen bits of every weight, (outputs, ...).
        total_bits: Upper end of the colour scale.
        title: Names the layer and the last task.
    """
    with optional_picture(f"the heatmap of {title}"):
        from blip_rl.reporting.heatmaps import block_mean, frozen_bits_image

        small = block_mean(frozen_bits.flatten(1).cpu().numpy())  # layers have millions of weights
        image: Any = frozen_bits_image(small, total_bits, title)
        logger.record(tag, Image(image, "HWC"))


def log_bits(logger: Logger, frozen: dict[str, Tensor], total_bits: int, after: str, env_steps: int) -> None:
    """Log the mean frozen bits of the trunk and of every layer, and histogram and heatmap of every layer's."""
    for tag, mean in mean_bits(frozen).items():
        logger.record(tag, mean)
    for layer, weights in _layers(frozen).items():
        logger.record(f"bits/{layer}/histogram", weights.float())
        log_heatmap(logger, f"bits/{layer}/heatmap", weights, total_bits, f"{layer} after {after}")
    logger.dump(env_steps)


def log_method_metrics(logger: Logger, console: Console, task: str, metrics: Mapping[str, float]) -> None:
    """Log the metrics of a consolidation, and print those that do not belong to a single layer."""
    for name, value in metrics.items():
        logger.record(f"method/{name}", value)
    shown = [f"{name.replace('_', ' ')} {value:.3g}" for name, value in metrics.items() if "/" not in name]
    if shown:
        console.say(f"consolidated {task}: {', '.join(shown)}")


ALL_LAYERS = "bits/mean_frozen"
"""Tag of the mean over all trunk weights, without biases."""


def mean_bits(frozen: dict[str, Tensor]) -> dict[str, float]:
    """Return tag → mean frozen bits: of all trunk weights and of those of each layer, without biases."""
    layers = _layers(frozen)
    means = {f"bits/{layer}/mean_frozen": weights.double().mean().item() for layer, weights in layers.items()}
    return {ALL_LAYERS: overall_mean(frozen), **means} if layers else {}


def overall_mean(frozen: dict[str, Tensor]) -> float:
    """Return the mean frozen bits of all trunk weights, without biases."""
    weights = _layers(frozen).values()
    return sum(int(w.sum(dtype=torch.int64)) for w in weights) / sum(w.numel() for w in weights)


def _layers(frozen: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return layer name → frozen bits of its weights."""
    return {name.removesuffix(".weight"): bits for name, bits in frozen.items() if name.endswith(".weight")}
