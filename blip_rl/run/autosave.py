"""Saves snapshots of a run: every ``checkpoint.every_steps``, at the end of each task, and when a stop is requested.

Emulators are not saved. At every ``checkpoint.every_steps`` all environments are reset with a seed derived from the
step, in every run, interrupted or not: resuming from there only needs the seed. A snapshot after any other update also
holds the action log since the last reset, which replays the environments to their current state. Either way the
results are bit-identical to those of an uninterrupted run.
"""

from __future__ import annotations

from blip_rl.learner import state
from blip_rl.learner.ppo import ContinualPPO
from blip_rl.run.context import RunContext, games_seed
from blip_rl.run.tensorboard import event_writers
from blip_rl.storage import snapshot as snapshots
from blip_rl.storage.action_log import ActionLog
from blip_rl.tasks.recorded import RecordedVecEnv


class Autosave:
    """Saves snapshots while one task is learned.

    Attributes:
        resumed: Whether an earlier process started the task.
    """

    def __init__(self, run: RunContext, stage: int, first_seed: int, *, resumed: bool = False) -> None:
        """Create the autosave of a task.

        Args:
            run: The run.
            stage: Number of the stage, counted from 1.
            first_seed: Seed that the environments were last reset with.
            resumed: Whether an earlier process started the task.
        """
        self._run, self._stage = run, stage
        self._games_seed, self.resumed = first_seed, resumed

    def save_start(self) -> None:
        """Save the start of the task.

        The first task needs no snapshot: starting the run again gives the same result.
        """
        if self._agent.num_timesteps:
            self._save("learning")

    def between_updates(self) -> None:
        """Reset the environments and save every ``checkpoint.every_steps``; save and raise if a stop was requested.

        Raises:
            StopRequestError: A stop was requested; the run is saved.
        """
        self._run.folder.note_steps(self._agent.num_timesteps)
        if self._agent.just_passed(self._run.config.checkpoint.every_steps):
            # Reset first, so that the snapshot needs no actions to replay: the seed alone leads to this state.
            self._restart_games()
            self._save("learning")
        elif self._run.stop.signal_number is not None:
            self.save_now()
        self._run.stop.check()

    def save_now(self) -> None:
        """Save the current state; only called between two updates."""
        self._save("learning")

    def save_learned(self) -> None:
        """Save the end of learning, before the task is evaluated and consolidated."""
        self._save("learned")

    @property
    def plasticity_task(self) -> str:
        """Name of the task on whose observations plasticity is measured."""
        return self._run.config.task_of(self._stage).name

    @property
    def _agent(self) -> ContinualPPO:
        return self._run.agent

    def _restart_games(self) -> None:
        """Reset the environments with a seed derived from the current step."""
        self._games_seed = games_seed(self._run.config.seed, self._stage, self._agent.num_timesteps)
        self._agent.restart_games(self._games_seed)
        self._run.returns.restarted(self._agent.policy.current_name, self._agent.n_envs)

    def _played_games(self) -> list[ActionLog]:
        """Return the action log of the environments of every task that is being learned."""
        return [played_games(self._agent, self._games_seed)]

    def _save(self, phase: snapshots.Phase) -> None:
        # The snapshot stores the sizes of the event files, so events still in the writer's buffer would be lost.
        for writer in event_writers(self._run.logger):
            writer.flush()
        snapshots.save(
            self._run.folder,
            self._agent,
            self._run.method,
            stage=self._stage,
            phase=phase,
            games=self._played_games(),
            watched=self._run.plasticity.states_of(self.plasticity_task),
            rollout_states=self._run.rollout_states.all(),
            finished=self._run.returns.finished,
            held_back=self._run.returns.held_back,
        )


def played_games(agent: ContinualPPO, seed: int) -> ActionLog:
    """Return the seed and action log that replay the current task's environments to their current state.

    Args:
        agent: Uses the task.
        seed: Seed that its environments were last reset with.
    """
    env = agent.env
    while env is not None and not isinstance(env, RecordedVecEnv):  # inside the wrappers of stable-baselines3
        env = getattr(env, "venv", None)
    assert env is not None, "training environments are recorded"
    return ActionLog(seed, env.action_log(), state.episodes(agent))
