"""Frames of a finished task with the policy and the values that a network had for them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from blip_rl.core.policy_tensors import KINDS


@dataclass(frozen=True)
class TaskMemory:
    """Frames of one task with their targets; every tensor has one row for each frame, on the CPU.

    Attributes:
        observations: Raw, as the environment gave them: (frames, ...).
        policy: Parameters of the action distribution: ``logits``, or ``loc`` and ``scale``.
        values: (frames,); None where the task had no critic.
    """

    observations: Tensor
    policy: dict[str, Tensor]
    values: Tensor | None

    def __len__(self) -> int:
        """Return the number of frames."""
        return len(self.observations)

    def rows(self, chosen: Tensor) -> TaskMemory:
        """Select frames by index."""
        values = None if self.values is None else self.values[chosen]
        return TaskMemory(self.observations[chosen], {key: t[chosen] for key, t in self.policy.items()}, values)

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors by name, not copied; :func:`taken_from` inverts it."""
        values = {} if self.values is None else {"values": self.values}
        return {"observations": self.observations, **self.policy, **values}

    def check_fit(self, name: str, trunk: nn.Module) -> None:
        """Check that the frames have as many channels or features as the trunk's first layer takes.

        Args:
            name: Of the task, for the message.
            trunk: The network that they are to be replayed through.

        Raises:
            ValueError: they have not.
        """
        first = next((layer for layer in trunk.modules() if isinstance(layer, nn.Linear | nn.Conv2d)), None)
        if first is None or self.observations.dim() != first.weight.dim():
            return
        takes, given = first.weight.shape[1], self.observations.shape[1]
        if takes != given:
            raise ValueError(
                f"'{name}.observations' has frames of {tuple(self.observations.shape[1:])}, but the trunk takes "
                f"{takes} {'channels' if isinstance(first, nn.Conv2d) else 'numbers'}: another network's state"
            )


def row_bytes(observations: Tensor) -> int:
    """Return the bytes of one frame, at least 1."""
    return max(1, observations[:1].nbytes)


def taken_from(tensors: dict[str, Tensor], prefix: str) -> TaskMemory:
    """Remove one task's memory, keys ``<prefix>.<name>``, from the tensors of a saved state and return it.

    Raises:
        ValueError: there are no frames, the policy is of no known kind, or the numbers of rows differ.
    """
    mine = {key.removeprefix(f"{prefix}."): key for key in tensors if key.startswith(f"{prefix}.")}
    parts = {key: tensors.pop(name) for key, name in mine.items()}
    if "observations" not in parts:
        raise ValueError(f"the saved state has no '{prefix}.observations': it belongs to another method")
    observations, values = parts.pop("observations"), parts.pop("values", None)
    if frozenset(parts) not in KINDS:
        raise ValueError(f"the saved state has {', '.join(sorted(parts)) or 'no policy'} as the policy of '{prefix}'")
    for key, tensor in {**parts, **({} if values is None else {"values": values})}.items():
        if len(tensor) != len(observations):
            raise ValueError(f"'{prefix}.{key}' has {len(tensor)} rows, expected {len(observations)}: a damaged state")
    return TaskMemory(observations, parts, values)
