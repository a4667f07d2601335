"""All tasks of a run learned at once: what is played, learned and seen until the one boundary at the end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from stable_baselines3.common.vec_env import VecEnv

from blip_rl.learner.interleave import learn_in_turns, take_turns
from blip_rl.learner.ppo import ContinualPPO
from blip_rl.run.monitor import TaskMonitor
from blip_rl.run.parts import RunParts, training_seed
from blip_rl.tasks.make import make_training_env


class TogetherMonitor(TaskMonitor):
    """Watches all tasks being learned at once, as one training."""

    @property
    def _title(self) -> str:
        return f"{len(self._config.tasks)} tasks at once"

    @property
    def _steps(self) -> int:
        return sum(task.steps for task in self._config.tasks)

    def _shown(self) -> dict[str, str]:
        """No return: it would be another game's at every rollout."""
        return {}


@contextmanager
def learned_together(run: RunParts) -> Iterator[ContinualPPO]:
    """Learn every task of the run, a rollout of each in turn; the games stay open within the block.

    Every task has its own environments (``ppo.environments`` of each), seeded as when it is learned alone.
    """
    numbers, compute = run.config.agent.ppo, run.config.compute
    groups = compute.groups(run.device, numbers.environments)
    with ExitStack() as opened:
        envs: list[VecEnv] = []
        for stage, task in enumerate(run.config.tasks, start=1):
            seed = training_seed(run.config.seed, stage)
            envs.append(make_training_env(task, run.config.atari, numbers.environments, seed, groups))
            opened.callback(envs[-1].close)
        agent = ContinualPPO(
            run.config.agent,
            run.config.tasks[0].name,
            envs[0],
            seed=run.config.seed,
            device=run.device,
            compute=compute,
        )
        agent.set_logger(run.logger)
        envs[0].seed(training_seed(run.config.seed, 1))  # building the agent has reseeded them
        run.agent = agent
        _learn(run, agent, envs)
        yield agent


def _learn(run: RunParts, agent: ContinualPPO, envs: list[VecEnv]) -> None:
    tasks = run.config.tasks
    turns = take_turns(agent, [(task.name, env, task.steps) for task, env in zip(tasks, envs, strict=True)])
    monitor = TogetherMonitor(run.config, len(tasks), run.scores, run.method, run.console)
    with agent.protected_by(run.method):
        try:
            learn_in_turns(agent, turns, monitor)
        finally:
            monitor.close()
