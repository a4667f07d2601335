"""Fine-tuning: each task continues to train the same trunk, without protection. The baseline of every comparison."""

from typing import ClassVar

from blip_rl.methods.base import Method


class Finetune(Method):
    """Protects nothing."""

    capturable: ClassVar[bool] = True
