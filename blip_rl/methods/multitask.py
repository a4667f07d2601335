"""Multitask: all tasks at once, a rollout of each in turn. Not continual: how far one trunk can get with them all."""

from typing import ClassVar

from blip_rl.methods.base import Method


class Multitask(Method):
    """The empty method, on all tasks interleaved: nothing is forgotten because nothing is ever left."""

    capturable: ClassVar[bool] = True
    interleaved: ClassVar[bool] = True
    distillable: ClassVar[bool] = False
