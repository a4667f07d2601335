"""Players: stage checkpoints that are only played, with float16 weights wherever the policies stay the same.

Every weight that float16 holds exactly becomes float16. The others are rounded to it only if the rounded policies agree
with those of float32 on states of the evaluation's games, within :data:`MOST_DIVERGENCE` and :data:`LEAST_AGREEMENT`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from blip_rl.config import RunConfig
from blip_rl.errors import UserError
from blip_rl.evaluation.cells import load_player
from blip_rl.learner.distil import Labelled, imitation, labelled
from blip_rl.learner.policy import ContinualPolicy
from blip_rl.methods.base import Method
from blip_rl.storage.checkpoint import save_player
from blip_rl.task_schedule import TaskConfig
from blip_rl.tasks.make import make_evaluation_env
from blip_rl.tasks.seeds import FIRST_EVALUATION_SEED

MOST_DIVERGENCE = 1e-4
"""Bound on the mean of KL(float32 ‖ float16) over the states of a game, in nats."""
LEAST_AGREEMENT = 0.99
"""Least share of the states of a game in which both take the same greedy action; for discrete actions."""
_ENVIRONMENTS, _STEPS, _EVERY = 10, 1000, 5  # 2,000 states of each game

Check = Callable[[], tuple[float, float | None]]
"""Returns how much the policies have changed: divergence and agreement, as in :class:`Rounding`."""


@dataclass(frozen=True)
class Rounding:
    """Which tensors of a stage are float16, and how much that changes its policies.

    Attributes:
        exact: Names of the tensors that float16 holds exactly.
        rounded: Names of the other float16 tensors.
        kept: Names of the tensors that stay float32.
        divergence: The largest mean divergence of any game, in nats.
        agreement: The smallest share of states with the same greedy action of any game; None for continuous actions.
        states: States of each game.
    """

    exact: tuple[str, ...]
    rounded: tuple[str, ...]
    kept: tuple[str, ...]
    divergence: float
    agreement: float | None
    states: int

    def __str__(self) -> str:
        parts = [f"float16: {len(self.rounded)} tensors rounded, {len(self.exact)} exact"]
        parts.append(f"float32: {', '.join(self.kept) or 'none'}")
        same = "" if self.agreement is None else f", the same greedy action in at least {self.agreement:.2%}"
        parts.append(f"KL(float32 ‖ float16) at most {self.divergence:.1e} nats{same} of {self.states:,} states a game")
        return "; ".join(parts)


def write_player(run: Path, config: RunConfig, number: int, path: Path) -> Rounding:
    """Write a stage of a run as a player.

    Args:
        run: The run folder.
        config: Its recipe.
        number: Number of the stage.
        path: The new folder of the checkpoint.

    Raises:
        UserError: The checkpoint is damaged or belongs to another run, or a game cannot be played on this machine.
    """
    stage, method = load_player(run, config, number)
    stage.policy.set_training_mode(False)
    try:
        check = _Check(stage.policy, method, config)
        exact, rounded, kept = round_weights(stage.policy, check)
        rounding = Rounding(exact, rounded, kept, *check(), check.states)
    except UserError:
        raise
    except ValueError as error:  # outputs that are not finite, or method state of another network
        raise UserError(f"the agent of stage {number} cannot be played: {error}") from error
    save_player(path, stage, method, {*exact, *rounded}, [str(rounding)])
    return rounding


class _Check:
    """Compares the policies of all games that a stage has learned with what they were when this was made."""

    def __init__(self, policy: ContinualPolicy, method: Method, config: RunConfig) -> None:
        self._policy, self._method = policy, method
        self._before: dict[str, Labelled] = {}
        tasks = {task.name: task for task in config.tasks}
        for name in policy.task_names:
            with self._playing(name):
                self._before[name] = labelled(policy, _states(policy, tasks[name], config))

    @property
    def states(self) -> int:
        """The number of states of each game."""
        return min(len(before.observations) for before in self._before.values())

    def __call__(self) -> tuple[float, float | None]:
        """Return the largest mean divergence and the smallest agreement of any game."""
        divergences, agreements = [], []
        for name, before in self._before.items():
            with self._playing(name):
                divergence, agreement = imitation(before, labelled(self._policy, before.observations))
            divergences.append(divergence)
            agreements += [] if agreement is None else [agreement]
        return float(np.max(divergences)), min(agreements, default=None)  # NaN stays NaN

    @contextmanager
    def _playing(self, task: str) -> Iterator[None]:
        number = self._policy.task_names.index(task) + 1
        with self._policy.using_task(task), self._method.playing(self._policy.protected, number):
            yield


def _states(policy: ContinualPolicy, task: TaskConfig, config: RunConfig) -> Tensor:
    """Return states that the task in use meets in the games of the evaluation, raw: (states, …)."""
    env = make_evaluation_env(task, config.atari, _ENVIRONMENTS, FIRST_EVALUATION_SEED + config.evaluation.seed)
    greedy = config.evaluation.actions == "greedy"
    try:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(FIRST_EVALUATION_SEED + config.evaluation.seed)
            observations, seen = np.asarray(env.reset()), []
            for step in range(_STEPS):
                if step % _EVERY == 0:
                    seen.append(torch.from_numpy(observations.copy()))
                observations = np.asarray(env.step(policy.act(observations, greedy))[0])
    finally:
        env.close()
    return torch.cat(seen)


@torch.no_grad()
def round_weights(policy: ContinualPolicy, check: Check) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Round the weights of a policy to float16, in place, where the policies stay the same.

    All are tried at once; if that changes a policy too much, one tensor after another, the largest first.

    Args:
        policy: The policy.
        check: Returns how much rounding has changed the policies.

    Returns:
        Names of the tensors that float16 holds exactly, that were rounded, and that were left.
    """
    full = {name: tensor.clone() for name, tensor in policy.task_state().items() if tensor.dtype == torch.float32}
    exact = tuple(name for name, tensor in full.items() if torch.equal(tensor.half().float(), tensor))
    others = [name for name, tensor in full.items() if name not in exact and tensor.half().isfinite().all()]
    rounded = others
    if not _round(policy, full, others, check):
        largest_first = sorted(others, key=lambda name: -full[name].numel())
        rounded = [name for name in largest_first if _round(policy, full, [name], check)]
    kept = tuple(name for name in full if name not in {*exact, *rounded})
    return exact, tuple(rounded), kept


def _round(policy: ContinualPolicy, full: dict[str, Tensor], names: Sequence[str], check: Check) -> bool:
    """Round tensors; return whether the policies stay the same, or else undo it."""
    weights = policy.task_state()
    for name in names:
        weights[name].copy_(full[name].half())
    divergence, agreement = check()
    if divergence <= MOST_DIVERGENCE and (agreement is None or agreement >= LEAST_AGREEMENT):
        return True
    for name in names:
        weights[name].copy_(full[name])
    return False
