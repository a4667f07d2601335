"""When a run is saved: at fixed steps, at the end of each task, and when it is asked to stop.

At the fixed steps all games start anew from a seed of that step, interrupted or not: from there a run that goes on
plays the same games, to the bit, as one that never stopped. A stop at any other update is saved with the actions played
since, which bring the games to the same place.
"""

from __future__ import annotations

from typing import cast

from stable_baselines3.common.logger import TensorBoardOutputFormat

from blip_rl.learner import state
from blip_rl.learner.ppo import ContinualPPO
from blip_rl.run.context import RunContext, games_seed
from blip_rl.storage import snapshot as snapshots
from blip_rl.storage.snapshot import ActionLog
from blip_rl.storage.snapshot_names import note_steps
from blip_rl.tasks.recorded import RecordedVecEnv


class Autosave:
    """Saves one task of a run while it is being learned.

    Attributes:
        resumed: Whether the task was begun by an earlier process.
    """

    def __init__(self, run: RunContext, stage: int, first_seed: int, *, resumed: bool = False) -> None:
        self._run, self._stage = run, stage
        self._games_seed, self.resumed = first_seed, resumed

    def save_start(self) -> None:
        """Save the beginning of the task; a run stopped before its first snapshot begins anew, which is the same."""
        if self._agent.num_timesteps:
            self._save("learning")

    def between_updates(self) -> None:
        """Start games anew and save, if it is time to; save and leave, if the run has been asked to stop.

        Raises:
            StopRequestError: it has been, and is saved.
        """
        note_steps(self._run.folder.path, self._agent.num_timesteps)
        if self._agent.just_passed(self._run.config.checkpoint.every_steps):
            self._restart_games()
            self._save("learning")
        elif self._run.stop.signal_number is not None:
            self.save_now()
        self._run.stop.check()

    def save_now(self) -> None:
        """Save this moment between two updates."""
        self._save("learning")

    def save_learned(self) -> None:
        """Save the end of learning, before the task is scored and consolidated."""
        self._save("learned")

    @property
    def plasticity_task(self) -> str:
        """The task on whose states plasticity is measured."""
        return self._run.config.tasks[self._stage - 1].name

    @property
    def _agent(self) -> ContinualPPO:
        return cast(ContinualPPO, self._run.agent)

    def _restart_games(self) -> None:
        """Begin new games, from a seed of this step."""
        self._games_seed = games_seed(self._run.config.seed, self._stage, self._agent.num_timesteps)
        self._agent.restart_games(self._games_seed)

    def _played_games(self) -> list[ActionLog]:
        """What leads the games to where they are: of every task that is being learned."""
        return [played_games(self._agent, self._games_seed)]

    def _save(self, phase: snapshots.Phase) -> None:
        for output in self._run.logger.output_formats:
            if isinstance(output, TensorBoardOutputFormat):
                output.writer.flush()
        snapshots.save(
            self._run.folder,
            self._agent,
            self._run.method,
            stage=self._stage,
            phase=phase,
            games=self._played_games(),
            watched=self._run.plasticity.states_of(self.plasticity_task),
            finished=self._run.returns.finished,
        )


def played_games(agent: ContinualPPO, seed: int) -> ActionLog:
    """What leads the games of the task in use to where they are from the seed they were started with."""
    env = agent.env
    while env is not None and not isinstance(env, RecordedVecEnv):  # below what stable-baselines3 puts around it
        env = getattr(env, "venv", None)
    assert env is not None, "training environments are recorded"
    return ActionLog(seed, env.action_log(), state.episodes(agent))
