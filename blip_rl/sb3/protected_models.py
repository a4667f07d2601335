"""Which model each method has learned, so that it is not used with the weights of another."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from weakref import ReferenceType, WeakKeyDictionary, ref

from torch import nn

from blip_rl.errors import UserError
from blip_rl.methods.base import Method


@dataclass(frozen=True)
class Learned:
    """The network that a method consolidated last.

    Attributes:
        layer: Last layer of the network: the same object for the same model.
        digest: Digest of the weights then.
    """

    layer: ReferenceType[nn.Module]
    digest: bytes

    @staticmethod
    def remember(method: Method, network: nn.Module) -> None:
        """Store the network that a method has just consolidated."""
        _learned[method] = Learned(ref(_last_layer(network)), _digest(network))


_learned: WeakKeyDictionary[Method, Learned] = WeakKeyDictionary()


def check_same_network(method: Method, network: nn.Module) -> None:
    """Check that a method protects this network, or none so far.

    A saved and loaded model is a new object with the same weights, and accepted. Another model of the same shape would
    get the weights of the first one's intervals and penalties.

    Raises:
        UserError: The method has learned another network.
    """
    learned = _learned.get(method)
    if learned is None or learned.layer() is _last_layer(network) or learned.digest == _digest(network):
        return
    raise UserError(
        f"this {type(method).__name__} protects the weights of another model: expected the model that learned the "
        "earlier tasks, or a new method object for a new model"
    )


def _last_layer(network: nn.Module) -> nn.Module:
    return list(network.children())[-1]


def _digest(network: nn.Module) -> bytes:
    digest = hashlib.blake2b()
    for parameter in network.parameters():
        digest.update(parameter.detach().cpu().contiguous().numpy().tobytes())
    return digest.digest()
