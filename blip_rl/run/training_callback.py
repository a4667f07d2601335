"""Schedule of a training: hooks called at its start, around each rollout and at its end."""

from __future__ import annotations

from typing import cast

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback

from blip_rl.evaluation.episodes import mean_score
from blip_rl.formatting import score_text
from blip_rl.learner.ppo import ContinualPPO
from blip_rl.learner.rollout import Rollout
from blip_rl.run.autosave import Autosave
from blip_rl.run.context import RunContext
from blip_rl.run.interruption import StopRequestError
from blip_rl.run.progress import Progress
from blip_rl.run.resources import forecast, peak_memory_bytes
from blip_rl.run.tensorboard import ALL_LAYERS, describe_run, mean_bits
from blip_rl.storage.returns import interval_steps

_ROLLOUTS_BEFORE_FORECAST = 3


class TrainingCallback(BaseCallback):
    """Logs, saves and evaluates while one task is learned.

    ============================  ==========================================================================
    Start                         describe the run to TensorBoard, save a snapshot, evaluate the untrained task
    Before each rollout           log the last update, save a snapshot if due, stop if requested, evaluate if due
    After each environment step   collect the returns of finished episodes
    After each rollout            write the returns, keep states for plasticity, log bits, show the progress
    End                           write the returns and the speed, log the last update
    ============================  ==========================================================================
    """

    def __init__(self, run: RunContext, stage: int, autosave: Autosave) -> None:
        super().__init__()
        self._run, self._stage, self._autosave = run, stage, autosave
        self._config, self._scores = run.config, run.scores
        self._returns, self._plasticity = run.returns, run.plasticity
        self._rollouts = 0
        self._progress: Progress | None = None

    def _on_training_start(self) -> None:
        """Called once: before the first rollout of the task, or before the next one if the task is resumed."""
        resumed = self._autosave.resumed
        if self.num_timesteps == 0 and not resumed:
            describe_run(self.logger, self._config, self._run.folder)
        self._prepare()
        if not resumed:
            self._plasticity.forget()  # if a task follows itself, its new visit is measured on states of its own
            for task in self._trained:
                self._returns.restarted(self._config.tasks[task].name, self._agent.n_envs)
            self._autosave.save_start()
        if self.num_timesteps == self._start_steps and self._config.evaluation.before_training:
            with self._running.paused():
                self._scores.evaluate_start(self._agent.policy, self._stage, self._trained, self.num_timesteps)

    def _on_rollout_start(self) -> None:
        """Called between two updates: the weights belong to exactly this number of steps."""
        if self._rollouts:
            self._log_update()
        if self.num_timesteps < self._end_steps:
            # Saved before the evaluation: a resumed run begins here again, with the tables as they are now.
            self._autosave.between_updates()
            if self._agent.just_passed(self._config.evaluation.every_steps):
                self._evaluate()

    def _on_step(self) -> bool:
        """Called after each step of all environments."""
        for number, info in enumerate(self.locals["infos"]):
            if "episode" in info:
                self._returns.add(self._agent.policy.current_name, number, float(info["episode"]["r"]))
        return True

    def _on_rollout_end(self) -> None:
        """Called after each rollout, before the update that learns from it."""
        self._rollouts += 1
        if self._agent.just_passed(self._returns_every):
            self._returns.write(self._stage, self.num_timesteps)
        if not self._has_states:
            self._keep_states()
        if self.num_timesteps > self._states_from:
            self._run.rollout_states.add(self._rollout.all_observations(), self._distilled_on)
        if self.num_timesteps < self._end_steps:  # the consolidation logs its newly frozen bits at the last step
            # At every rollout although they are constant: TensorBoard would draw a slope from boundary to boundary.
            for tag, mean in self._bits.items():
                self.logger.record(tag, mean)
        self._running.show(self.num_timesteps, self._shown_metrics())

    def _on_training_end(self) -> None:
        """Called after the last update, unless an error or a stop request ended the training.

        A callback of the user may have ended it in the middle of a rollout.
        """
        self._returns.release()
        self._returns.write(self._stage, self.num_timesteps)
        self._add_speed()
        # Before the end of learning is saved: a run resumed from that snapshot does not log this update again.
        self.logger.dump(self.num_timesteps)

    def close(self) -> None:
        """Remove the progress bar; called however the training ended."""
        if self._progress is not None:
            self._progress.close()

    @property
    def _title(self) -> str:
        """Title of the progress."""
        return f"{self._config.task_of(self._stage).name} ({self._stage}/{self._config.stages})"

    @property
    def _steps(self) -> int:
        """Training steps of the whole training: whole rollouts."""
        return self._config.learned_steps(self._stage)

    @property
    def _later_steps(self) -> int:
        """Training steps of the run that follow this training."""
        return sum(map(self._config.played_steps, range(self._stage + 1, self._config.stages + 1)))

    @property
    def _trained(self) -> list[int]:
        """Indices of the tasks that are trained, counted from 0."""
        return [self._config.visits[self._stage - 1]]

    @property
    def _agent(self) -> ContinualPPO:
        return cast(ContinualPPO, self.model)

    @property
    def _rollout(self) -> Rollout:
        return cast(Rollout, self._agent.rollout_buffer)

    @property
    def _running(self) -> Progress:
        return cast(Progress, self._progress)

    def _prepare(self) -> None:
        """Compute what is constant during the training, and start the clock."""
        self._start_steps, self._began_run = self._agent.task_began_at, self.num_timesteps == 0
        self._end_steps = self._start_steps + self._steps
        rollout = self._rollout
        self._states_from = self._end_steps - self._config.rollout_states(self._stage)
        self._distilled_on = self._config.rollout_states(self._stage) + self._config.agent.distil.steps
        self._returns_every = interval_steps(self._steps, rollout.buffer_size * rollout.n_envs)
        watched = self._plasticity.states_of(self._autosave.plasticity_task)
        self._has_states = self._autosave.resumed and watched is not None
        # Frozen bits only change between tasks; avoid averaging millions of weights at every rollout.
        frozen = self._run.method.frozen_bits()
        self._bits = mean_bits(frozen)
        self._progress = Progress(
            self._title,
            self._steps,
            began_at=self._start_steps,
            env_steps=self.num_timesteps,
            later_steps=self._later_steps,
            console=self._run.console,
        )

    def _evaluate(self) -> None:
        """Evaluate all tasks seen; on a stop request save the state before, so that a resumed run evaluates again."""
        try:
            with self._running.paused():
                played = self._scores.evaluate(self._agent.policy, self._stage, "periodic", self.num_timesteps)
        except StopRequestError:
            self._autosave.save_now()
            raise
        self._add_speed()
        scores = ", ".join(
            f"{task.name} {score_text(mean_score(episodes))}"
            for task, episodes in zip(self._config.tasks, played, strict=False)
        )
        self._running.show_evaluation(self.num_timesteps, self._shown_metrics(), scores)

    def _log_update(self) -> None:
        """Log the last update at its own step; stable-baselines3 would log it together with the next rollout."""
        speed = self._running.steps_per_second(self.num_timesteps)
        self.logger.record("time/steps_per_second", speed)
        if self._began_run and self._rollouts == _ROLLOUTS_BEFORE_FORECAST:
            text = forecast(self._config, self._agent, self._run.method, speed)
            if text is not None:
                self._run.console.say(text)
        self.logger.dump(self.num_timesteps)

    def _add_speed(self) -> None:
        if not self._rollouts:  # a resumed process that evaluates at once has not measured a speed yet
            return
        speed = self._running.steps_per_second(self.num_timesteps)
        self._scores.add_speed(self._stage, self.num_timesteps, speed, peak_memory_bytes())

    def _keep_states(self) -> None:
        """Keep observations of the first rollout, on which every evaluation measures plasticity."""
        self._has_states = True
        self._plasticity.measure_on(self._agent.policy, self._rollout.all_observations())

    def _shown_metrics(self) -> dict[str, str]:
        """Return the metrics shown with the progress."""
        shown = {}
        if self.model.ep_info_buffer:
            shown["return"] = score_text(float(np.mean([info["r"] for info in self.model.ep_info_buffer])))
        if ALL_LAYERS in self._bits:
            shown["bits frozen"] = f"{self._bits[ALL_LAYERS]:.2f}"
        return shown
