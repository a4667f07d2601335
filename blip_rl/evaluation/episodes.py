"""Evaluation episodes: raw returns of whole games, unbiased by episode length, with fixed seeds.

Every environment plays exactly its own episodes. Taking the first N episodes to finish would favour short ones.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from stable_baselines3.common.vec_env import VecEnv

from blip_rl.config import EvaluationConfig, RunConfig
from blip_rl.core.metrics import normalise
from blip_rl.learner.policy import ContinualPolicy
from blip_rl.methods.base import Method
from blip_rl.records import Phase, ScoreRow
from blip_rl.storage import validation
from blip_rl.task_schedule import TaskConfig
from blip_rl.tasks.make import has_lowered_time_limit, make_evaluation_env
from blip_rl.tasks.seeds import FIRST_EVALUATION_SEED

MOST_ENVIRONMENTS = 32
"""Batch size: episodes 0 to 31 are played in parallel, then 32 to 63, and so on."""

OnActions = Callable[[npt.NDArray[np.int64], npt.NDArray[Any]], object]
"""Called with the indices of the running episodes, shape (running,), and their actions, shape (running, …)."""


@dataclass(frozen=True)
class Episode:
    """One episode: raw return, length in steps, and whether a limit of the recipe truncated it."""

    score: float
    length_steps: int
    truncated: bool

    @staticmethod
    def of(row: ScoreRow) -> Episode:
        """Return the episode recorded in a row of ``scores.csv``."""
        return Episode(row.score, row.length_steps, row.truncated)


class EpisodeActions:
    """Record the actions of every episode of an evaluation; pass it as ``on_actions``.

    Attributes:
        games: Index of the episode → its actions.
    """

    def __init__(self) -> None:
        self.games: dict[int, list[Any]] = defaultdict(list)

    def __call__(self, playing: npt.NDArray[np.int64], actions: npt.NDArray[Any]) -> None:
        """Append one action for each running episode."""
        for number, action in zip(playing.tolist(), actions, strict=True):
            self.games[number].append(action)


def evaluate_task(
    policy: ContinualPolicy,
    method: Method,
    task: TaskConfig,
    config: RunConfig,
    evaluation: EvaluationConfig,
    budget_steps: int | None = None,
    on_games_over: Callable[[int], object] = lambda count: None,
    on_actions: OnActions = lambda playing, actions: None,
) -> list[Episode]:
    """Evaluate a policy on a task with the head of the task.

    Does not change the random state of training, nor the policy's current task and training mode.

    Args:
        policy: A policy with a head for the task.
        method: Its ``playing`` hook may replace trunk weights during the evaluation.
        task: The task to play.
        config: Preprocessing settings.
        evaluation: Number of episodes, action selection, step limits and seeds.
        budget_steps: Maximum number of steps of all episodes together; None: only the limit per episode applies.
        on_games_over: Called with the number of episodes that have just ended, to show progress.
        on_actions: Called with the actions of every step before they are executed.

    Returns:
        Episode k for k = 0, 1, …: the first episode of the environment with seed k.

    Raises:
        UserError: the policy does not fit the observations or actions of the task.
    """
    episodes: list[Episode] = []
    training_mode = policy.training
    policy.set_training_mode(False)
    lowered = has_lowered_time_limit(task, config.atari)
    with (
        policy.using_task(task.name),
        method.playing(policy.protected, policy.task_names.index(task.name) + 1),
        torch.random.fork_rng(devices=_cuda_devices(policy)),
    ):
        torch.manual_seed(FIRST_EVALUATION_SEED + evaluation.seed)
        while len(episodes) < evaluation.episodes:
            first = len(episodes)
            count = min(MOST_ENVIRONMENTS, evaluation.episodes - first)
            env = make_evaluation_env(task, config.atari, count, FIRST_EVALUATION_SEED + evaluation.seed + first)
            spent = sum(episode.length_steps for episode in episodes)
            left = None if budget_steps is None else max(0, budget_steps - spent)
            try:
                validation.check_agent_observations(policy, task.name, env.observation_space)
                validation.check_actions([(task.name, policy.current.action_space)], [(task.name, env.action_space)])
                episodes += _play_one_each(env, policy, evaluation, left, on_games_over, on_actions, first, lowered)
            finally:
                env.close()
    policy.set_training_mode(training_mode)
    return episodes


def _cuda_devices(policy: ContinualPolicy) -> list[torch.device]:
    return [policy.device] if policy.device.type == "cuda" else []


def _play_one_each(
    env: VecEnv,
    policy: ContinualPolicy,
    evaluation: EvaluationConfig,
    budget_steps: int | None,
    on_games_over: Callable[[int], object],
    on_actions: OnActions,
    first: int,
    lowered_time_limit: bool,
) -> list[Episode]:
    """Play one episode in each environment, indexed from ``first``; finished environments idle until all are done.

    An episode that reaches the environment's own time limit counts as ended; only limits of the recipe truncate it.
    """
    games = env.num_envs
    scores, lengths = np.zeros(games), np.zeros(games, dtype=np.int64)
    ended, truncated = np.zeros(games, dtype=bool), np.zeros(games, dtype=bool)
    observations: Any = env.reset()
    actions = policy.act(observations, greedy=True)
    while not ended.all():
        playing = np.flatnonzero(~ended)
        chosen = policy.act(observations[playing], greedy=evaluation.actions == "greedy")
        on_actions(first + playing, chosen)
        actions[playing] = chosen
        observations, rewards, dones, infos = env.step(actions)
        scores[playing] += rewards[playing]
        lengths[playing] += 1
        capped = ~dones & (lengths >= evaluation.max_episode_steps)
        if budget_steps is not None and lengths.sum() >= budget_steps:
            capped = ~dones
        limited = [lowered_time_limit and info.get("TimeLimit.truncated", False) for info in infos]
        truncated[playing] = (capped | limited)[playing]
        on_games_over(int(((dones | capped) & ~ended).sum()))
        ended |= dones | capped
    return [Episode(float(s), int(n), bool(t)) for s, n, t in zip(scores, lengths, truncated, strict=True)]


def mean_score(episodes: list[Episode]) -> float:
    """Return the mean raw return."""
    return float(np.mean([episode.score for episode in episodes]))


def normalised(score: float, task: TaskConfig) -> float | None:
    """Return the score on a scale from random play (0) to the reference (1); None if the recipe has no such scores."""
    if task.random_score is None or task.reference_score is None:
        return None
    return float(normalise(score, task.random_score, task.reference_score))


def score_rows(
    episodes: list[Episode], task: TaskConfig, evaluation: EvaluationConfig, env_steps: int, stage: int, phase: Phase
) -> list[ScoreRow]:
    """Convert episodes to rows of ``scores.csv``."""
    return [
        ScoreRow(
            env_steps=env_steps,
            stage=stage,
            phase=phase,
            task=task.name,
            seed=evaluation.seed + index,
            score=episode.score,
            length_steps=episode.length_steps,
            truncated=episode.truncated,
            normalised=normalised(episode.score, task),
            actions=evaluation.actions,
        )
        for index, episode in enumerate(episodes)
    ]


def with_head_for(policy: ContinualPolicy, task: TaskConfig, config: RunConfig) -> ContinualPolicy:
    """Return the policy, or for a task never learned a copy with a new seeded head for it (zero-shot evaluation)."""
    if task.name in policy.task_names:
        return policy
    env = make_evaluation_env(task, config.atari, 1, 0)
    env.close()
    extended = copy.deepcopy(policy)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(config.seed)  # torch.manual_seed would also seed the GPU's, unrestored
        extended.add_task(task.name, env.action_space)
    return extended
