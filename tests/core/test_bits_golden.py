"""The equations, applied step by step, against what the authors' release computed."""

import pytest
import torch

from blip_rl.core import bits, released_code

PARAMETERS = [(layer, kind) for layer in ("conv", "linear") for kind in ("weight", "bias")]


def close(actual, expected, of_largest=0.0):
    largest = expected.abs().max().item()
    torch.testing.assert_close(actual, expected.to(actual.dtype), rtol=1e-6, atol=of_largest * largest)


@pytest.mark.parametrize("scale", ["reference", "true"])
@pytest.mark.parametrize(("layer", "kind"), PARAMETERS)
def test_three_tasks_of_the_reference(golden, layer, kind, scale):
    """With the reference's Fisher and prior; and with the true Fisher and the prior × batch², which must agree."""
    batch, total_bits = golden.settings["batch"], golden.settings["bits"]
    name = f"{layer}.fisher_{kind}" + ("_reference_scale" if scale == "reference" else "")
    units = 1 if scale == "reference" else batch**2
    prior = golden.number(f"{layer}.prior")
    bound = golden.number(f"{layer}.bound") if kind == "weight" else 1.0

    shape = golden[f"task0.{layer}.{kind}_proposed"].shape
    centre, frozen = torch.zeros(shape), torch.zeros(shape, dtype=torch.uint8)
    mean = torch.full(shape, prior if scale == "reference" else released_code.reference_prior(prior, batch))
    for t in range(golden.settings["tasks"]):
        task = f"task{t}"
        low, high = bits.interval(centre, frozen, bound, total_bits)
        weight = bits.project(golden[f"{task}.{layer}.{kind}_proposed"], low, high)
        close(weight, golden[f"{task}.{layer}.{kind}_clipped"])

        fisher = golden[f"{task}.{name}"].float()
        gain = bits.information_gain(fisher, mean, t + 1, "reference")
        frozen = bits.freeze(gain, frozen, total_bits)
        assert torch.equal(frozen.long(), golden[f"{task}.{layer}.{kind}_bits"])

        centre = bits.quantize(weight, frozen, bound)
        close(centre, golden[f"{task}.{layer}.{kind}_centre"])

        mean = bits.running_fisher(fisher, mean, t + 1)
        # The release's own Fisher has float32 rounding errors, which show in the smallest entries.
        of_largest = 0.0 if scale == "reference" else 1e-7
        close(mean / units, golden[f"{task}.{layer}.{kind}_fisher_mean"], of_largest)


def test_bounds_and_priors_of_the_reference_follow_from_the_layers_shapes(golden):
    prior = golden.settings["fisher_prior_reference"]
    for layer in ("conv", "linear"):
        fan = released_code.fan(tuple(golden[f"task0.{layer}.weight_proposed"].shape))
        assert released_code.weight_bound(fan) == pytest.approx(golden.number(f"{layer}.bound"), rel=1e-12)
        assert prior * fan == pytest.approx(golden.number(f"{layer}.prior"), rel=1e-12)
