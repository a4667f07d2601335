"""The whole method, set to the reference's rules, through the three tasks that the authors' release computed."""

from typing import ClassVar

import torch
from torch import nn
from torch.distributions import Categorical, Distribution

from blip_rl.core.released_code import reference_prior
from blip_rl.methods.base import FinishedTask
from blip_rl.methods.blip import Blip

LAYERS = {"conv": "0", "linear": "3"}


class Recorded(Distribution):
    """A categorical policy that draws the actions on record."""

    arg_constraints: ClassVar = {}

    def __init__(self, logits, actions):
        super().__init__(torch.Size([len(logits)]))
        self._policy, self._actions = Categorical(logits=logits), actions

    def sample(self, sample_shape=()):
        return self._actions

    def log_prob(self, value):
        return self._policy.log_prob(value)


def close(actual, expected, of_largest=0.0):
    atol = of_largest * expected.abs().max().item()
    torch.testing.assert_close(actual, expected.to(actual.dtype), rtol=1e-6, atol=atol)


def test_three_tasks_of_the_reference(golden):
    prior, batch = golden.settings["fisher_prior_reference"], golden.settings["batch"]
    trunk = nn.Sequential(nn.Conv2d(2, 4, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(64, 8), nn.ReLU())
    blip = Blip(
        gain="reference",
        nested=False,
        round_after_task=True,
        quantize_forward=False,
        fisher_prior=reference_prior(prior, batch),
    )
    parameters = [
        (f"{layer}.{kind}", f"{index}.{kind}") for layer, index in LAYERS.items() for kind in ("weight", "bias")
    ]
    for t in range(golden.settings["tasks"]):
        task = f"task{t}"
        blip.start_task(trunk)
        for theirs, ours in parameters:
            with torch.no_grad():
                trunk.get_parameter(ours).copy_(golden[f"{task}.{theirs}_proposed"])
        blip.after_step()
        for theirs, ours in parameters:
            close(trunk.get_parameter(ours).detach(), golden[f"{task}.{theirs}_clipped"])

        weight, bias, actions = (golden[f"{task}.{name}"] for name in ("head.weight", "head.bias", "actions"))
        blip.end_task(
            FinishedTask(
                trunk,
                lambda y, w=weight, b=bias, a=actions: Recorded(y @ w.T + b, a),
                golden[f"{task}.obs"],
                lambda x: x,
                torch.Generator(),
            )
        )
        for theirs, ours in parameters:
            assert torch.equal(blip.frozen_bits()[ours].long(), golden[f"{task}.{theirs}_bits"])
            centre, mean = (blip.state().tensors[f"{ours}.{kind}"] for kind in ("centre", "fisher_mean"))
            close(centre, golden[f"{task}.{theirs}_centre"])
            close(trunk.get_parameter(ours).detach(), golden[f"{task}.{theirs}_centre"])
            # The release's own Fisher has float32 rounding errors, which show in the smallest entries.
            close(mean / batch**2, golden[f"{task}.{theirs}_fisher_mean"], of_largest=1e-7)
