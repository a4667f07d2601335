"""Multitask training: all tasks of a run are learned at once, a rollout of each in turn, in one single stage."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from stable_baselines3.common.vec_env import VecEnv

from blip_rl.learner import state
from blip_rl.learner.multitask import TaskSchedule, learn_interleaved
from blip_rl.learner.ppo import ContinualPPO
from blip_rl.run.autosave import Autosave, played_games
from blip_rl.run.callbacks import joined
from blip_rl.run.context import RunContext, games_seed, training_seed
from blip_rl.run.resume import restored
from blip_rl.run.training_callback import TrainingCallback
from blip_rl.storage.action_log import ActionLog
from blip_rl.storage.snapshot import RunSnapshot


class MultitaskCallback(TrainingCallback):
    """The schedule of learning all tasks at once, as one training."""

    @property
    def _title(self) -> str:
        return f"{len(self._config.tasks)} tasks at once"

    @property
    def _steps(self) -> int:
        """Training steps of all tasks; each task's are rounded up to whole rollouts."""
        return self._config.all_played_steps

    @property
    def _trained(self) -> list[int]:
        return list(range(len(self._config.tasks)))

    def _shown_metrics(self) -> dict[str, str]:
        """Show no return: it would belong to another game at every rollout."""
        return {}


class MultitaskAutosave(Autosave):
    """Saves snapshots while all tasks are learned at once, with the action logs of all their environments."""

    def __init__(self, run: RunContext, schedule: TaskSchedule, seeds: list[int], *, resumed: bool = False) -> None:
        super().__init__(run, len(run.config.tasks), seeds[0], resumed=resumed)
        self._schedule, self._seeds = schedule, seeds

    @property
    def plasticity_task(self) -> str:
        """Name of the first task."""
        return self._run.config.tasks[0].name

    def _restart_games(self) -> None:
        """Reset every task's environments with the seed it would have if it were learned alone."""
        for number, task in enumerate(self._schedule.each(), start=1):
            self._seeds[number - 1] = games_seed(self._run.config.seed, number, self._agent.num_timesteps)
            self._agent.restart_games(self._seeds[number - 1])
            self._run.returns.restarted(task, self._agent.n_envs)

    def _played_games(self) -> list[ActionLog]:
        return [played_games(self._agent, seed) for seed, _ in zip(self._seeds, self._schedule.each(), strict=True)]


@contextmanager
def multitask_training(run: RunContext, saved: RunSnapshot | None) -> Iterator[ContinualPPO]:
    """Learn every task of the run, a rollout of each in turn; the environments stay open within the block.

    Every task has ``ppo.environments`` environments of its own, seeded as when it is learned alone.

    Args:
        run: The run; its agent is created here.
        saved: Snapshot to resume from; None starts from the beginning.

    Yields:
        The trained agent.
    """
    tasks, envs = run.config.tasks, list[VecEnv]()
    with ExitStack() as opened:
        for stage, _ in enumerate(tasks, start=1):
            envs.append(run.make_games(stage))
            opened.callback(envs[-1].close)
        agent = run.start_agent(tasks[0].name, envs[0])
        envs[0].seed(training_seed(run.config.seed, 1))  # stable-baselines3 reseeds them when the agent is created
        schedule = TaskSchedule(agent, [(task.name, env, task.steps) for task, env in zip(tasks, envs, strict=True)])
        _learn(run, schedule, saved)
        yield agent


def _learn(run: RunContext, schedule: TaskSchedule, saved: RunSnapshot | None) -> None:
    autosave = _restore(run, schedule, saved) if saved else _begin(run, schedule)
    with run.agent.protected_by(run.method, resume=autosave.resumed):
        if saved is not None and saved.phase == "learned":
            return
        callback = MultitaskCallback(run, len(run.config.tasks), autosave)
        try:
            learn_interleaved(run.agent, schedule, joined(callback, run.callback))
        finally:
            callback.close()
    autosave.save_learned()


def _begin(run: RunContext, schedule: TaskSchedule) -> MultitaskAutosave:
    seeds = [training_seed(run.config.seed, stage) for stage, _ in enumerate(run.config.tasks, start=1)]
    return MultitaskAutosave(run, schedule, seeds)


def _restore(run: RunContext, schedule: TaskSchedule, saved: RunSnapshot) -> MultitaskAutosave:
    """Restore every task's environments from a snapshot, and select the task whose turn it is."""
    with restored(run, saved, run.config.tasks[0].name):
        for played, _ in zip(saved.games, schedule.each(), strict=True):
            run.agent.replay_games(played.seed, played.actions)
            state.restore_episodes(run.agent, played.episodes)
        schedule.resume()
    return MultitaskAutosave(run, schedule, [played.seed for played in saved.games], resumed=True)
