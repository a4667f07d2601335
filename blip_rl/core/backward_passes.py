"""Backward passes of a policy's log-probabilities, with the input and the output gradient of every layer.

Samples do not interact (no batch normalisation), so row n of δ, the gradient of ``Σₙ log π(aₙ|sₙ)`` with respect to a
layer's output, is the gradient of sample n alone. What sums over samples need follows from δ and the layer's input x,
with one backward pass per chunk of samples: see :mod:`blip_rl.core.fisher` and :mod:`blip_rl.core.kronecker`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, Protocol, cast, runtime_checkable

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Independent

Expectation = Literal["sampled", "exact"]
Head = Callable[[Tensor], "Tensor | Distribution"]
"""Trunk features → logits of a categorical policy, shape (samples, actions), or a torch Distribution over actions."""


@runtime_checkable
class Sums(Protocol):
    """What :func:`backward_passes` calls with the parts of each layer's gradient, chunk by chunk."""

    def add_inputs(self, name: str, layer: nn.Linear | nn.Conv2d, x: Tensor) -> None:
        """Add a layer's input, once a chunk."""

    def add_gradients(self, name: str, layer: nn.Linear | nn.Conv2d, x: Tensor, delta: Tensor) -> None:
        """Add δ of a layer with its input, once for each backward pass of the chunk."""


def backward_passes(
    trunk: nn.Module,
    head: Head,
    observations: Shaped[Tensor, "samples ..."],
    sums: Sums,
    actions: Shaped[Tensor, "samples_of_actions ..."] | None = None,
    *,
    expectation: Expectation = "sampled",
    reverse_logits: bool = False,
    preprocess: Callable[[Tensor], Tensor] | None = None,
    chunk_samples: int = 64,
    generator: torch.Generator | None = None,
) -> None:
    """Run the policy over all observations and hand every layer's x and δ to ``sums``; samples are not mixed.

    Arguments and exceptions are those of :func:`blip_rl.core.fisher.diagonal_fisher`. With ``exact`` the δ of an action
    are scaled by √π(a|s), so that sums of squares and of outer products are expectations over actions.
    """
    _check_arguments(observations, actions, expectation, chunk_samples)
    layers = supported_layers(trunk)
    parameter = next(trunk.parameters())
    if expectation == "sampled" and actions is None:
        actions = _drawn_actions(trunk, head, observations, preprocess, chunk_samples, generator)
    for start in range(0, len(observations), chunk_samples):
        chunk = observations[start : start + chunk_samples].to(parameter.device)
        taken = None if actions is None else actions[start : start + chunk_samples].to(parameter.device)
        with _recording(layers) as record, torch.enable_grad():
            policy = _as_distribution(head(trunk(chunk if preprocess is None else preprocess(chunk))))
            measured = _reversed(policy) if reverse_logits else policy
            for name, x in record.inputs.items():
                sums.add_inputs(name, layers[name], x)
            for log_probability in _weighted_log_probabilities(policy, measured, taken):
                for name, delta in record.gradients(log_probability):
                    sums.add_gradients(name, layers[name], record.inputs[name], delta)


def _check_arguments(
    observations: Tensor, actions: Tensor | None, expectation: Expectation, chunk_samples: int
) -> None:
    if expectation not in ("sampled", "exact"):
        raise ValueError(f"expectation {expectation!r}: expected 'sampled' or 'exact'")
    if len(observations) == 0:
        raise ValueError("0 observations: the Fisher is a mean over samples and needs at least one")
    if chunk_samples < 1:
        raise ValueError(f"chunk_samples {chunk_samples}: expected at least 1")
    if actions is not None and expectation == "exact":
        raise ValueError("actions given with expectation='exact', which weights all actions: leave actions out")
    if actions is not None and len(actions) != len(observations):
        raise ValueError(f"{len(actions)} actions for {len(observations)} observations: expected one for each")


def supported_layers(trunk: nn.Module) -> dict[str, nn.Linear | nn.Conv2d]:
    """Return the layers with parameters, by name.

    Raises:
        TypeError: one is neither linear nor a 2-D convolution, or there are none.
    """
    layers: dict[str, nn.Linear | nn.Conv2d] = {}
    seen: set[nn.Parameter] = set()
    for name, module in trunk.named_modules():
        if next(module.parameters(recurse=False), None) is None:
            continue
        if not isinstance(module, nn.Linear | nn.Conv2d):
            raise TypeError(
                f"layer {name or 'trunk'!r} is a {type(module).__name__}: the closed forms know nn.Linear and "
                "nn.Conv2d; move other parameters out of the trunk, for example into the task's head"
            )
        if isinstance(module, nn.Conv2d) and module.padding_mode != "zeros":
            raise TypeError(f"layer {name!r} pads with {module.padding_mode!r}: expected padding_mode='zeros'")
        if seen & set(module.parameters()):
            raise TypeError(f"layer {name!r} shares parameters with another layer: the closed forms need its own")
        seen.update(module.parameters())
        layers[name] = module
    if not layers:
        raise TypeError("the trunk has no nn.Linear or nn.Conv2d layer with parameters: it has no Fisher")
    return layers


def _as_distribution(policy: Tensor | Distribution) -> Distribution:
    return Categorical(logits=policy) if isinstance(policy, Tensor) else policy


@torch.no_grad()
def _drawn_actions(
    trunk: nn.Module,
    head: Head,
    observations: Shaped[Tensor, "samples ..."],
    preprocess: Callable[[Tensor], Tensor] | None,
    chunk_samples: int,
    generator: torch.Generator | None,
) -> Shaped[Tensor, "samples ..."]:
    """Sample one action per observation.

    Only the trunk runs in chunks. torch's samplers fill tensors in vectorised blocks, so with one draw per chunk the
    actions would depend on the chunk size.
    """
    device = next(trunk.parameters()).device
    chunks = (chunk.to(device) for chunk in torch.split(observations, chunk_samples))
    features = torch.cat([trunk(chunk if preprocess is None else preprocess(chunk)) for chunk in chunks])
    return _draw(_as_distribution(head(features)), generator)


def _draw(policy: Distribution, generator: torch.Generator | None) -> Tensor:
    if generator is None:
        return policy.sample()
    if isinstance(policy, Categorical):
        drawn = torch.multinomial(policy.probs.to(generator.device), 1, generator=generator)
        return drawn.squeeze(1).to(policy.logits.device)
    # Distribution.sample takes no generator: seed the global one from it, for this draw only.
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return policy.sample()


def _reversed(policy: Distribution) -> Categorical:
    """Return the categorical policy with the opposite logits."""
    if not isinstance(policy, Categorical):
        raise ValueError(f"reverse_logits with a {type(policy).__name__} policy: only a categorical one has logits")
    return Categorical(logits=-policy.logits)


def _weighted_log_probabilities(
    policy: Distribution, measured: Distribution, actions: Shaped[Tensor, "samples ..."] | None
) -> Iterator[Float[Tensor, ""]]:
    """Yield one scalar per backward pass; squares of their per-sample gradients sum to the expectation over actions.

    Args:
        policy: Over one chunk of samples; weights the actions.
        measured: The policy whose log-probabilities are differentiated: the same, or the reversed one.
        actions: The sampled actions; None for the exact expectation.
    """
    if actions is not None:
        yield _log_probability(measured, actions).sum()
        return
    if not (isinstance(policy, Categorical) and isinstance(measured, Categorical)):
        raise ValueError(f"expectation='exact' with a {type(policy).__name__} policy: only a categorical one has a sum")
    # With √π detached, (∂(√π·log π))² = π·(∂ log π)²: the squared gradient is weighted with exactly π(a|s).
    root = policy.probs.detach().sqrt()
    weighted = root * measured.logits
    for action in range(weighted.shape[1]):
        yield weighted[:, action].sum()


def _log_probability(policy: Distribution, actions: Shaped[Tensor, "samples ..."]) -> Float[Tensor, " samples"]:
    """Compute log π(a|s), summed over independent action dimensions."""
    if isinstance(policy, Categorical):
        return cast(Tensor, policy.log_prob(actions.reshape(len(actions))))  # type: ignore[no-untyped-call]
    extra = len(policy.batch_shape) - 1
    return (Independent(policy, extra) if extra else policy).log_prob(actions)


class _Record:
    """Inputs x and outputs y of every layer, for one chunk of samples."""

    def __init__(self, layers: dict[str, nn.Linear | nn.Conv2d]) -> None:
        self.layers = layers
        self.inputs: dict[str, Tensor] = {}
        self.outputs: dict[str, Tensor] = {}

    def keep(self, name: str, layer_input: Tensor, output: Tensor) -> Tensor:
        """Record one layer's pass; return a copy of y, so that in-place activations cannot overwrite the original."""
        if name in self.inputs:
            raise ValueError(f"layer {name!r} is used twice in one pass: the closed forms need each layer used once")
        if not output.requires_grad:  # a frozen first layer: its output has no graph, but δ is needed all the same
            output.requires_grad_()
        self.inputs[name] = layer_input.detach()
        self.outputs[name] = output
        return output.clone()

    def gradients(self, log_probability: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Run one backward pass to all layer outputs; yield (layer, δ) where the policy depends on the layer."""
        # The graph is kept: the exact expectation runs one backward pass per action over the same forward pass.
        gradients: tuple[Tensor | None, ...] = torch.autograd.grad(
            log_probability, list(self.outputs.values()), retain_graph=True, allow_unused=True
        )
        return ((name, delta) for name, delta in zip(self.outputs, gradients, strict=True) if delta is not None)


@contextmanager
def _recording(layers: dict[str, nn.Linear | nn.Conv2d]) -> Iterator[_Record]:
    record = _Record(layers)
    handles = [
        layer.register_forward_hook(lambda _, args, output, name=name: record.keep(name, args[0], output))
        for name, layer in layers.items()
    ]
    try:
        yield record
    finally:
        for handle in handles:
            handle.remove()
