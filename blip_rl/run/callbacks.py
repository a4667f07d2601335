"""Callbacks of stable-baselines3 that a user gives to a training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stable_baselines3.common.callbacks import BaseCallback, CallbackList, ConvertCallback

from blip_rl.errors import UserError

if TYPE_CHECKING:
    from stable_baselines3.common.type_aliases import MaybeCallback


def as_callback(callback: MaybeCallback) -> BaseCallback | None:
    """Return a callback, a function or a list of both as one callback; None for None.

    Raises:
        UserError: It is something else.
    """
    if callback is None or isinstance(callback, BaseCallback):
        return callback
    return CallbackList([_one(item) for item in (callback if isinstance(callback, list | tuple) else [callback])])


def _one(callback: Any) -> BaseCallback:
    if isinstance(callback, BaseCallback):
        return callback
    if isinstance(callback, type) or not callable(callback):
        raise UserError(
            f"callback = {str(callback)[:80]!r}: expected a stable-baselines3 callback object, a function of (locals, "
            "globals), or a list of them"
        )
    return _FunctionCallback(callback)


class _FunctionCallback(ConvertCallback):
    """Calls a function after each step; unlike in stable-baselines3, one that returns nothing does not end training."""

    def _on_step(self) -> bool:
        answer: object = super()._on_step()
        return answer is None or bool(answer)


def joined(training: BaseCallback, user: BaseCallback | None) -> BaseCallback:
    """Return a training's own callback, followed by the user's."""
    return training if user is None else CallbackList([training, user])
