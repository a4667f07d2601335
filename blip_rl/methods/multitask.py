"""Multitask: learns all tasks at once, one rollout of each in turn; joint training, not continual learning."""

from typing import ClassVar

from blip_rl.methods.base import Method


class Multitask(Method):
    """Protects nothing; all tasks are interleaved, so there is nothing to forget."""

    capturable: ClassVar[bool] = True
    interleaved: ClassVar[bool] = True
    distillable: ClassVar[bool] = False
    no_visits: ClassVar[str] = "it learns all tasks at once"
