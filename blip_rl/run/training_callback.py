"""What is seen while a run learns: TensorBoard tags, the progress bar, periodic scores."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from torch import Tensor
from tqdm import tqdm

from blip_rl.config import RunConfig
from blip_rl.console import Console
from blip_rl.formatting import score_text
from blip_rl.learner.ppo import ContinualPPO
from blip_rl.learner.rollout import Rollout
from blip_rl.methods.base import Method
from blip_rl.records import BitsRow
from blip_rl.run.autosave import Autosave
from blip_rl.run.interruption import StopRequestError
from blip_rl.run.resources import estimate_resources
from blip_rl.run.scores import ScoreBook
from blip_rl.run.tensorboard import describe_run, log_heatmap
from blip_rl.storage.returns import interval_steps
from blip_rl.untrusted.machine import in_words

_ROLLOUTS_BEFORE_ESTIMATE = 3
_LONG_RUN_SECONDS = 120


class TrainingCallback(BaseCallback):
    """Watches one task being learned: scores it now and then, and shows rate, time left, return and bits."""

    def __init__(
        self,
        config: RunConfig,
        stage: int,
        scores: ScoreBook,
        method: Method,
        console: Console,
        autosave: Autosave,
    ) -> None:
        super().__init__()
        self._config, self._stage, self._scores, self._method = config, stage, scores, method
        self._console, self._autosave = console, autosave
        self._learning_seconds = 0.0
        self._rollouts = 0
        self._layer_bits: dict[str, float] = {}
        self._mean_bits: float | None = None
        self._bar: tqdm[Any] | None = None

    def _on_training_start(self) -> None:
        resumed = self._autosave.resumed
        if self.num_timesteps == 0 and not resumed:
            describe_run(self.logger, self._config)
        self._start_steps, self._timed_from = self._agent.task_began_at, self.num_timesteps
        self._end_steps = self._start_steps + self._steps
        rollout = cast(Rollout, self._agent.rollout_buffer)
        self._returns_every = interval_steps(self._steps, rollout.buffer_size * rollout.n_envs)
        self._watching = resumed and self._scores.panel.states_of(self._autosave.plasticity_task) is not None
        # Bits change only at boundaries, and a mean over millions of them is not free.
        frozen = self._method.frozen_bits()
        self._layer_bits = mean_frozen_bits(frozen)
        self._mean_bits = overall_mean(frozen) if frozen else None
        self._clock = time.perf_counter()
        self._bar = tqdm(
            total=self._steps,
            desc=self._title,
            unit="step",
            unit_scale=True,
            dynamic_ncols=True,
            disable=not self._console.bars,
        )
        if not resumed:
            self._autosave.save_start()
        if self.num_timesteps == self._start_steps:
            self._score_start()

    def _score_start(self) -> None:
        """Score what this training is about to learn, unless the run did so before it was stopped."""
        if self._config.evaluation.before_training:
            self._scores.evaluate_start(self._agent.policy, self._stage, self._trained, self.num_timesteps)
            self._clock = time.perf_counter()

    def _on_rollout_start(self) -> None:
        """Between two updates: the weights belong to exactly this number of steps."""
        if self._rollouts:
            self._measure_rate()
            # What the update recorded is written at the update's own step, not with the next rollout's.
            self.logger.dump(self.num_timesteps)
        if self.num_timesteps < self._end_steps:
            self._autosave.between_updates()
        every = self._config.evaluation.every_steps
        if self.num_timesteps < self._end_steps and self._agent.just_passed(every):
            self._score()

    def _score(self) -> None:
        """Score all tasks seen; asked to stop meanwhile, leave as if it had not begun."""
        self._learning_seconds += time.perf_counter() - self._clock
        self._clock = time.perf_counter()
        try:
            self._scores.evaluate(self._agent.policy, self._stage, "periodic", self.num_timesteps)
        except StopRequestError:
            self._autosave.save_now()
            raise
        self._clock = time.perf_counter()
        self._add_speed()

    def _on_step(self) -> bool:
        for info in self.locals["infos"]:
            if "episode" in info:
                self._scores.training.add(self._agent.policy.current_name, float(info["episode"]["r"]))
        return True

    def _on_rollout_end(self) -> None:
        self._rollouts += 1
        if self.num_timesteps >= self._end_steps or self._agent.just_passed(self._returns_every):
            self._scores.training.write(self._stage, self.num_timesteps)
        if not self._watching:
            self._watching = True
            # States of the task that are the same at every evaluation, and cost no game and no random draw.
            rollout = cast(Rollout, self._agent.rollout_buffer)
            self._scores.panel.watch(self._agent.policy, rollout.all_observations())
        if self.num_timesteps < self._end_steps:  # the task's last step has the bits that its end leaves frozen
            for layer, mean in self._layer_bits.items():
                self.logger.record(f"bits/{layer}/mean_frozen", mean)
        self._advance_bar()

    def _on_training_end(self) -> None:
        self._add_speed()
        # The last update's figures, before the end is saved: a run that goes on from there has them behind it.
        self.logger.dump(self.num_timesteps)
        if self._bar is not None:
            self._bar.close()

    def close(self) -> None:
        """Take the bar off the screen, also when learning was broken off."""
        if self._bar is not None:
            self._bar.close()

    @property
    def _title(self) -> str:
        """What is being learned."""
        return f"{self._config.tasks[self._stage - 1].name} ({self._stage}/{len(self._config.tasks)})"

    @property
    def _steps(self) -> int:
        """Steps that it will take."""
        return self._config.learning_steps(self._stage)

    @property
    def _trained(self) -> list[int]:
        """Indices of the tasks that are trained now, counted from 0."""
        return [self._stage - 1]

    @property
    def _agent(self) -> ContinualPPO:
        return cast(ContinualPPO, self.model)

    def _rate(self) -> float:
        """Steps per second of whole iterations, rollout and update, without the evaluations."""
        seconds = self._learning_seconds + time.perf_counter() - self._clock
        return (self.num_timesteps - self._timed_from) / seconds

    def _add_speed(self) -> None:
        self._scores.add_speed(self._stage, self.num_timesteps, self._rate(), peak_memory_bytes())

    def _measure_rate(self) -> None:
        rate = self._rate()
        self.logger.record("time/steps_per_second", rate)
        if self._timed_from == 0 and self._rollouts == _ROLLOUTS_BEFORE_ESTIMATE:
            self._say_estimate(rate)

    def _advance_bar(self) -> None:
        bar = cast("tqdm[Any]", self._bar)
        done = min(self.num_timesteps - self._start_steps, bar.total)
        bar.set_postfix(self._shown(), refresh=False)
        bar.update(done - bar.n)

    def _shown(self) -> dict[str, str]:
        """What the bar says of the learning itself."""
        shown = {}
        if self.model.ep_info_buffer:
            shown["return"] = score_text(float(np.mean([info["r"] for info in self.model.ep_info_buffer])))
        if self._mean_bits is not None:
            shown["bits frozen"] = f"{self._mean_bits:.2f}"
        return shown

    def _say_estimate(self, rate: float) -> None:
        total = sum(task.steps for task in self._config.tasks)
        seconds = total / rate
        if seconds >= _LONG_RUN_SECONDS:
            estimate = estimate_resources(self._config, self._agent, self._method, peak_memory_bytes())
            self._console.say(
                f"{total:,} steps at {rate:,.0f} steps/s so far: about {duration(seconds)} of learning, and the "
                f"evaluations; about {in_words(estimate.memory)} of memory, up to {in_words(estimate.disk)} of disk "
                f"({in_words(estimate.final_disk)} in the end)"
            )


def peak_memory_bytes() -> int:
    """The most memory this process has held."""
    peak: int = int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    return peak if sys.platform == "darwin" else peak * 1024  # kilobytes but on macOS


def mean_frozen_bits(frozen: dict[str, Tensor]) -> dict[str, float]:
    """Layer → mean of the frozen bits of its weights (biases left out)."""
    return {
        name.removesuffix(".weight"): tensor.double().mean().item()
        for name, tensor in frozen.items()
        if name.endswith("weight")
    }


def overall_mean(frozen: dict[str, Tensor]) -> float:
    """Mean of frozen bits over all weights of the trunk."""
    weights = [tensor for name, tensor in frozen.items() if name.endswith("weight")]
    return sum(int(w.sum(dtype=w.int().dtype)) for w in weights) / sum(w.numel() for w in weights)


def log_method_metrics(logger: Logger, console: Console, task: str, figures: Mapping[str, float]) -> None:
    """Record what the method did at the end of a task, and print it, without the figures of single layers."""
    for name, value in figures.items():
        logger.record(f"method/{name}", value)
    shown = [f"{name.replace('_', ' ')} {value:.3g}" for name, value in figures.items() if "/" not in name]
    if shown:
        console.say(f"consolidated {task}: {', '.join(shown)}")


def log_bits(logger: Logger, frozen: dict[str, Tensor], total_bits: int, after: str, env_steps: int) -> None:
    """Write the mean, the histogram and the heatmap of every layer to TensorBoard."""
    for layer, mean in mean_frozen_bits(frozen).items():
        weights = frozen[f"{layer}.weight"]
        logger.record(f"bits/{layer}/mean_frozen", mean)
        logger.record(f"bits/{layer}/histogram", weights.float())
        log_heatmap(logger, f"bits/{layer}/heatmap", weights, total_bits, f"{layer} after {after}")
    logger.dump(env_steps)


def bits_rows(frozen: dict[str, Tensor], stage: int) -> list[BitsRow]:
    """Histogram of frozen bits of every trunk parameter, as rows of ``bits.csv``."""
    rows = []
    for name, tensor in frozen.items():
        layer, _, parameter = name.rpartition(".")
        for bits, count in enumerate(tensor.flatten().int().bincount().tolist()):
            if count:
                rows.append(BitsRow(stage, layer, parameter, bits, count))
    return rows


def duration(seconds: float) -> str:
    """Seconds as a person says them: ``45 s``, ``12 min``, ``3.5 h``, ``2.1 days``."""
    for unit, size in (("days", 86_400), ("h", 3_600)):
        if seconds >= size * 1.5:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
