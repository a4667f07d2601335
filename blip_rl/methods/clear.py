"""CLEAR: replays frames of earlier tasks and clones the policy and the values stored with them.

Rolnick, Ahuja, Schwarz, Lillicrap, Wayne, "Experience Replay for Continual Learning", NeurIPS 2019 (arXiv 1811.11682).
With μ and V_μ the policy and values stored with a frame s, π and V the current ones, the loss of a minibatch gains

    L = mean over replayed s of  policy_cloning · KL(μ(·|s) ‖ π(·|s)) + value_cloning · (V(s) − V_μ(s))²

No V-trace term, unlike CLEAR: on-policy PPO cannot use replayed data. Frames come from rollouts of the finished policy.
"""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from blip_rl.core import saved
from blip_rl.core.policy_tensors import KINDS, divergence, policy_tensors
from blip_rl.core.replay import TaskMemory, row_bytes, taken_from
from blip_rl.errors import UserError
from blip_rl.methods.base import FinishedTask, Method, MethodState, Network, Outputs
from blip_rl.setting_types import NonNegativeFloat, PositiveFloat, PositiveInt, Settings

_CHUNK = 256  # batch size when targets are computed
_GENERATOR_BYTES = 100_000  # more than the state of any torch generator on a CPU
_USUAL_FRAME_BYTES = 4 * 84 * 84  # a stack of Atari frames; assumed until the first task has ended


class ClearSettings(Settings):
    """Size of the memory, size of the replayed batch, and weights of the two losses."""

    policy_cloning: NonNegativeFloat = 10.0
    """Weight of KL(stored ‖ current), in units of PPO's policy loss."""
    value_cloning: NonNegativeFloat = 0.5
    """Weight of the squared error of the values, in units of PPO's policy loss."""
    batch: Annotated[PositiveInt, Field(le=65_536)] = 64
    """Frames replayed with every minibatch; each costs as much as a training sample."""
    capacity_frames: PositiveInt = 10_000
    """Frames kept of all earlier tasks together."""
    capacity_mb: PositiveFloat = 300.0
    """Megabytes of frames kept; the smaller of the two limits applies."""


class Clear(Method):
    """Adds a cloning loss over a bounded memory of frames of earlier tasks."""

    Settings = ClearSettings
    settings: ClearSettings

    def __init__(self, **settings: Any) -> None:
        """Pass the fields of :class:`ClearSettings` as keywords: ``Clear(policy_cloning=0.1)``."""
        super().__init__(**settings)
        self._memories: list[TaskMemory] = []
        self._seed = 0
        self._draws: torch.Generator | None = None  # while a task is learned

    @property
    def samples_wanted(self) -> int:
        """The new task's share of the memory, in frames."""
        return self._capacity() // self._tasks_after()

    def start_task(self, trunk: nn.Module) -> None:
        """Seed this task's draws from the state: a restart from a checkpoint draws the same frames.

        Raises:
            ValueError: the frames belong to another network.
        """
        self._check_memories(trunk)
        self._draws = torch.Generator().manual_seed(self._seed)

    def resume_task(self, trunk: nn.Module) -> None:
        """Continue with the loaded state of the generator.

        Raises:
            ValueError: the frames belong to another network.
        """
        if self._draws is None:
            self.start_task(trunk)
        else:
            self._check_memories(trunk)

    def loss(self, outputs: Outputs) -> Tensor | None:
        """Return the cloning loss over ``batch`` frames, drawn evenly from the earlier tasks; None without any.

        Raises:
            ValueError: a stored policy has another shape than its task's head: it belongs to another network.
        """
        if not self._memories:
            return None
        # One forward pass for each task: each has a head, scales and shifts of its own.
        terms = []
        for number, count in enumerate(self._shares(), start=1):
            if count:
                memory = self._memories[number - 1]
                replayed = memory.rows(torch.randint(len(memory), (count,), generator=self._draws))
                terms.append(self._cloning(number, replayed, outputs).sum())
        return torch.stack(terms).sum() / self.settings.batch

    def end_task(self, finished: FinishedTask) -> dict[str, float]:
        """Store frames of the task with their targets, and reduce the earlier tasks to their new share.

        Raises:
            UserError: the capacity is too small for one frame of each task.
        """
        frame_bytes = row_bytes(finished.observations)
        capacity = self._capacity(frame_bytes)
        tasks = self._tasks_after()
        share = capacity // tasks
        if share < 1:
            raise UserError(
                f"method.capacity_frames = {self.settings.capacity_frames} and method.capacity_mb = "
                f"{self.settings.capacity_mb:g} hold {capacity} frames of {frame_bytes:,} bytes: expected at least one "
                f"for each of {tasks} tasks (raise them)"
            )
        # A random part of a random part is a uniform sample too, so no frame beyond a task's share has to be kept.
        found = finished.observations
        observations = found[_chosen(len(found), share, finished.generator)].cpu()
        kept = [
            memory.rows(_chosen(len(memory), share, finished.generator)) if len(memory) > share else memory
            for memory in self._memories
        ]
        new = _remember(finished, observations)
        if 1 <= self.task <= len(kept):  # a task that came back: its newest policy is the one to keep
            kept[self.task - 1] = new
        else:
            kept.append(new)
        self._memories = kept
        # The next task's draws follow from the saved state alone, so a restart from this checkpoint repeats them.
        self._seed = int(torch.randint(2**31, (), generator=finished.generator))
        self._draws = None
        return {"replay_frames": float(sum(map(len, self._memories))), "replay_mb": self.memory_bytes() / 1e6}

    def _tasks_after(self) -> int:
        """Return the number of tasks with a memory after the current one: a task that came back has one already."""
        return max(len(self._memories), self.task or len(self._memories) + 1)

    def memory_bytes(self) -> int:
        """Return the bytes of all frames, without their targets, which are small."""
        return sum(memory.observations.nbytes for memory in self._memories)

    def state(self) -> MethodState:
        """Return every task's frames and targets, the next task's seed and, during a task, the generator's state."""
        tensors = {
            f"task{number}.{key}": tensor
            for number, memory in enumerate(self._memories, start=1)
            for key, tensor in memory.tensors().items()
        }
        if self._draws is not None and self._memories:  # nothing is drawn while there is no memory
            tensors["draws"] = self._draws.get_state()
        return MethodState(tensors, {"tasks_seen": len(self._memories), "seed": self._seed})

    def state_tensors(self, network: Network) -> dict[str, saved.TensorLayout]:
        """Return each task's frames and targets, one row a frame, and the state of the generator of draws."""
        frames, dtype, shape = self.settings.capacity_frames, *_frame(network)
        found = {"draws": saved.TensorLayout(torch.uint8, (_GENERATOR_BYTES,), bounded=(0,))}
        for number, outputs in enumerate(network.outputs, start=1):
            kinds = dict.fromkeys(set().union(*KINDS), (outputs,)) | {"values": ()}
            found[f"task{number}.observations"] = saved.TensorLayout(dtype, (frames, *shape), bounded=(0,))
            for kind, row in kinds.items():
                found[f"task{number}.{kind}"] = saved.TensorLayout(torch.float32, (frames, *row), bounded=(0,))
        return found

    def describe(self, state: MethodState) -> list[str]:
        """Return the number of frames kept of each task."""
        frames = {name: len(tensor) for name, tensor in state.tensors.items() if name.endswith(".observations")}
        return [f"{count:,} frames of {name.partition('.')[0]} kept for replay" for name, count in frames.items()]

    def kept_bytes(self, network: Network) -> int:
        """Return the bytes of a full memory's frames: full after the first task."""
        dtype, shape = _frame(network)
        frame_bytes = saved.TensorLayout(dtype, shape).nbytes
        return self._capacity(frame_bytes) * frame_bytes

    def load_state(self, state: MethodState) -> None:
        """Load a saved state; raise ValueError if it is not of this method or damaged."""
        left = dict(state.tensors)
        draws = _generator(left.pop("draws", None))
        tasks = state.values.get("tasks_seen", 0)
        memories = [taken_from(left, f"task{number}") for number in range(1, tasks + 1)]
        if left:
            raise ValueError(f"state for {min(left)!r}, which CLEAR does not keep: it belongs to another method")
        self._memories, self._seed, self._draws = memories, int(state.values.get("seed", 0)), draws

    def _check_memories(self, trunk: nn.Module) -> None:
        for number, memory in enumerate(self._memories, start=1):
            memory.check_fit(f"task{number}", trunk)

    def _capacity(self, frame_bytes: int | None = None) -> int:
        """Return the number of frames that fit; their size is that of the first task's."""
        if self._memories:
            frame_bytes = row_bytes(self._memories[0].observations)
        within = int(self.settings.capacity_mb * 1e6 / (frame_bytes or _USUAL_FRAME_BYTES))
        return min(self.settings.capacity_frames, within)

    def _shares(self) -> list[int]:
        """Return the number of frames that each earlier task contributes: equal, the remainder to random tasks."""
        tasks = len(self._memories)
        odd = set(torch.randperm(tasks, generator=self._draws)[: self.settings.batch % tasks].tolist())
        return [self.settings.batch // tasks + (index in odd) for index in range(tasks)]

    def _cloning(self, number: int, replayed: TaskMemory, outputs: Outputs) -> Tensor:
        """Return the weighted divergence and squared error of each replayed frame of one task, shape (frames,)."""
        policy, values = outputs(number, replayed.observations)
        current = policy_tensors(policy)
        for key, stored in replayed.policy.items():
            if key not in current or current[key].shape != stored.shape:
                raise ValueError(f"'task{number}.{key}' does not fit task {number}'s head: another network's state")
        stored_policy = {key: tensor.to(values.device) for key, tensor in replayed.policy.items()}
        cloning = self.settings.policy_cloning * divergence(stored_policy, current)
        if replayed.values is None:
            return cloning
        return cloning + self.settings.value_cloning * (values - replayed.values.to(values.device)).square()


@torch.no_grad()
def _remember(finished: FinishedTask, observations: Tensor) -> TaskMemory:
    """Return frames with the finished task's policy and values, computed in chunks."""
    device = next(finished.trunk.parameters()).device
    policies, values = [], []
    for chunk in torch.split(observations, _CHUNK):
        features = finished.trunk(finished.preprocess(chunk.to(device)))
        policies.append({key: tensor.cpu() for key, tensor in policy_tensors(finished.head(features)).items()})
        if finished.values is not None:
            values.append(finished.values(chunk).cpu())
    policy = {key: torch.cat([part[key] for part in policies]) for key in policies[0]}
    return TaskMemory(observations, policy, torch.cat(values) if values else None)


def _frame(network: Network) -> tuple[torch.dtype, tuple[int, ...]]:
    """Return dtype and shape of one raw observation."""
    row = np.empty(network.observation_space.shape or (), network.observation_space.dtype)
    return torch.from_numpy(row).dtype, row.shape


def _generator(state: Tensor | None) -> torch.Generator | None:
    """Return a generator with a saved state; None without one."""
    if state is None:
        return None
    generator = torch.Generator()
    try:
        return generator.set_state(state)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"'draws' is not the state of a generator: a damaged state ({error})") from error


def _chosen(rows: int, count: int, generator: torch.Generator) -> Tensor:
    """Return the indices of ``count`` random rows, drawn without replacement, or of all if there are fewer."""
    return torch.randperm(rows, generator=generator)[:count]
