"""Fine-tuning: the next task simply goes on training. What forgets most, and what every method is measured against."""

from typing import ClassVar

from blip_rl.methods.base import Method


class Finetune(Method):
    """The empty method."""

    capturable: ClassVar[bool] = True
