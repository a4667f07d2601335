"""BLIP: freezes the bits of each weight that earlier tasks need, as estimated from their Fisher information.

Shi, Yuan, Chen, Feng, CVPR 2021. The equations are in :mod:`blip_rl.core.bits`; this file keeps their state.
State per trunk parameter, for any number of tasks: frozen bits (1 byte), centre (4), running Fisher (4),
remainder below the grid (4) = 13 bytes. During training the two ends of each interval are cached as well.
"""

from __future__ import annotations

import warnings
from dataclasses import asdict
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from blip_rl.core import bits, released_code, saved
from blip_rl.core.blocks import row_blocks
from blip_rl.core.layers import protected_layers
from blip_rl.core.partly_frozen import SAVED, PartlyFrozen
from blip_rl.core.prior import ParameterFisher, PriorOutcome, PriorSearch, has_information, shortfall
from blip_rl.methods.base import FinishedTask, MethodState, Network
from blip_rl.methods.blip_settings import BlipSettings
from blip_rl.methods.fisher_method import FisherMethod


class Blip(FisherMethod):
    """Freezes bits of every trunk parameter according to its Fisher information; see the module's docstring."""

    capturable: ClassVar[bool] = True
    Settings = BlipSettings
    settings: BlipSettings

    def __init__(self, **settings: Any) -> None:
        """Pass the fields of :class:`BlipSettings` as keywords: ``Blip(first_task_bits=4)``."""
        super().__init__(**settings)
        self.tasks_seen = 0
        self.fisher_prior = self.settings.fisher_prior
        self.first_task: dict[str, float] | None = None
        self._uninformed: dict[str, float] = {}
        self._parameters: dict[str, PartlyFrozen] = {}
        self._loaded: dict[str, Tensor] = {}

    @property
    def total_bits(self) -> int:
        """N, bits of each weight."""
        return self.settings.total_bits

    @torch.no_grad()
    def start_task(self, trunk: nn.Module) -> None:
        """Bind to the trunk's parameters; project each into its interval and onto the grid."""
        found = _trunk_parameters(trunk)
        trunk_parameters = {name: parameter for name, parameter, _ in found}
        if self._loaded:
            for kind, tensors in zip(SAVED, saved.split(self._loaded, *SAVED), strict=True):
                saved.check_fit(tensors, trunk_parameters, f"{{}}.{kind}")
        elif self.tasks_seen:  # a network it has not learned would be left unprotected
            saved.check_fit({name: p.centre for name, p in self._parameters.items()}, trunk_parameters, "{}.centre")
        self._parameters = {name: self._bind(name, parameter, layer_fan) for name, parameter, layer_fan in found}
        self._loaded = {}
        self._warn_of_clipping()
        for state in self._parameters.values():
            state.set_interval(self.settings.total_bits, self.settings.interval)
        self.after_step()  # a resumed task begins here too: a second projection changes nothing

    @torch.no_grad()
    def after_step(self) -> None:
        """Clip to the interval, quantise and keep the remainder (paper Eq. 3 and 4), so that small steps add up."""
        # In place, because a captured CUDA graph replays addresses: no tensor may be replaced while a task is learned.
        for p in self._parameters.values():
            if self.settings.quantize_forward:
                bits.project_and_quantize_(p.weight, p.remainder, p.low, p.high, p.bound, self.settings.total_bits)
            else:
                torch.clamp(p.weight, p.low, p.high, out=p.weight)

    def end_task(self, finished: FinishedTask) -> dict[str, float]:
        """Fisher → prior, after the first task → gain → frozen bits → centre → (round) → running Fisher.

        If a prior must be solved for and no weight has information, nothing is frozen, a warning is issued, and the
        next task counts as the first. It is not an error because the task is already learned.
        """
        if not self._parameters:
            raise RuntimeError("end_task before start_task: attach the method while the task is being learned")
        fisher = self.fisher_of(finished)
        self._uninformed = {
            name: 1 - has_information(fisher[name], p.fan).float().mean().item() for name, p in self._parameters.items()
        }
        shares = {f"without_information/{name}": share for name, share in self._uninformed.items()}
        first = self._start_from_prior(fisher) if self.tasks_seen == 0 else None
        if self.fisher_prior is None:
            return {"mean_frozen_bits": 0.0, **shares}
        self.tasks_seen += 1
        with torch.no_grad():
            for name, state in self._parameters.items():
                self._consolidate(state, fisher[name])
        found = {"informed_bits": first.informed_bits, "drift": first.drift} if first else {}
        return {
            "fisher_prior": self.fisher_prior,
            "mean_frozen_bits": self.mean_frozen_bits(),
            **found,
            **shares,
        }

    def mean_frozen_bits(self) -> float:
        """Return the mean of frozen bits over all trunk weights, without biases."""
        weights = [p.frozen_bits for p in self._parameters.values() if p.frozen_bits.dim() > 1]
        return sum(w.sum().item() for w in weights) / max(1, sum(w.numel() for w in weights))

    def frozen_bits(self) -> dict[str, Tensor]:
        """Return the current frozen bits S of every trunk parameter, uint8, by name."""
        return {name: state.frozen_bits.clone() for name, state in self._parameters.items()}

    def intervals(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Return the current interval (low, high) of every trunk parameter, each shaped like the parameter."""
        return {name: (state.low.clone(), state.high.clone()) for name, state in self._parameters.items()}

    def state(self) -> MethodState:
        """Return the tensors of every parameter, the number of tasks seen, the prior and its effect."""
        tensors = {
            f"{name}.{kind}": tensor.clone()
            for name, p in self._parameters.items()
            for kind, tensor in p.saved().items()
        }
        values = {
            "tasks_seen": self.tasks_seen,
            "fisher_prior": self.fisher_prior,
            "total_bits": self.settings.total_bits,
            "first_task": self.first_task,
            "without_information": self._uninformed,
            **self.scale_values(),
        }
        return MethodState(self._loaded | tensors, values)

    def state_tensors(self, network: Network) -> dict[str, saved.TensorLayout]:
        """Return the four tensors of every parameter."""
        return saved.layouts(network.parameters(), **SAVED)

    def load_state(self, state: MethodState) -> None:
        """Load a saved state; the next ``start_task`` applies it to the trunk.

        Raises:
            ValueError: it was saved with another number of bits.
        """
        its, mine = state.values["total_bits"], self.settings.total_bits
        if its != mine:
            raise ValueError(f"a state of total_bits = {its}, but this method has {mine}: expected the same")
        self._loaded = dict(state.tensors)
        self._parameters = {}
        self.tasks_seen = int(state.values["tasks_seen"])
        self.load_scale(state)
        self.fisher_prior = state.values["fisher_prior"]
        self.first_task = state.values.get("first_task")  # early versions kept neither
        self._uninformed = dict(state.values.get("without_information", {}))

    def _bind(self, name: str, parameter: nn.Parameter, layer_fan: int) -> PartlyFrozen:
        """Return the state of one parameter: the existing one, the loaded one, or a new one."""
        # The same tensors are kept from task to task; a copy of the trunk takes over the state of the original.
        known = self._parameters.get(name)
        if known is not None and known.weight is parameter:
            return known
        is_weight = parameter.dim() > 1
        state = PartlyFrozen.unfrozen(
            parameter,
            bound=released_code.weight_bound(layer_fan) if is_weight and self.settings.weight_bound == "fan" else 1.0,
            fan=layer_fan if self.settings.prior_scale == "fan" else 1,
        )
        if known is not None:
            state.load(known.saved())
        elif self._loaded:
            state.load({kind: self._loaded[f"{name}.{kind}"] for kind in SAVED})
        return state

    def _warn_of_clipping(self) -> None:
        """Warn if a network trained without BLIP has weights beyond their bounds."""
        for name, p in self._parameters.items() if self.tasks_seen == 0 else ():
            lowest, highest = torch.aminmax(p.weight)
            if max(-lowest, highest) <= p.bound:
                continue
            beyond = int((p.weight.abs() > p.bound).count_nonzero()) / p.weight.numel()
            if beyond > 0.001:
                warnings.warn(
                    f"{name}: {beyond:.1%} of its entries lie beyond ±{p.bound:.3g} and are clipped, which changes "
                    "what the network does (method.weight_bound = 'unit' allows weights up to 1)",
                    stacklevel=3,
                )

    def _start_from_prior(self, fisher: dict[str, Tensor]) -> PriorOutcome | None:
        """Start the running mean at F₀ (× fan), given or solved for; return None if there is no solution."""
        settings = self.settings
        learned = [
            ParameterFisher(fisher[name], p.fan, p.bound, p.weight.dim() > 1) for name, p in self._parameters.items()
        ]
        search = PriorSearch(learned, settings.gain, settings.interval, settings.total_bits)
        if settings.fisher_prior is not None:
            found: PriorOutcome | None = search.outcome(settings.fisher_prior)
        elif settings.first_task_bits is not None:
            found = search.for_bits(settings.first_task_bits)
        else:
            found = search.for_drift(cast(float, settings.first_task_drift))
        if remark := shortfall(found, settings.first_task_bits, settings.first_task_drift, settings.total_bits):
            warnings.warn(remark, stacklevel=3)
        if found is None:
            return None
        self.fisher_prior, self.first_task = found.prior, asdict(found)
        for p in self._parameters.values():
            p.fisher_mean.fill_(found.prior * p.fan)
        return found

    def _consolidate(self, p: PartlyFrozen, fisher: Tensor) -> None:
        settings = self.settings
        # In blocks of rows: a dozen temporaries of a whole large layer would set the peak memory of a run.
        for f, weight, bits_before, centre, mean in row_blocks(
            fisher, p.weight, p.frozen_bits, p.centre, p.fisher_mean
        ):
            gain = bits.information_gain(f, mean, self.tasks_seen, settings.gain)
            frozen = bits.freeze(gain, bits_before, settings.total_bits)
            if settings.nested:
                nested = bits.nested_centre(
                    weight, frozen, centre, bits_before, p.bound, settings.total_bits, settings.interval
                )
                centre.copy_(nested)
            else:
                centre.copy_(bits.quantize(weight, frozen, p.bound))
            # Eq. 9 uses the new S for the centre; Eq. 7 comes last, because Eq. 8 needs the mean before this task.
            bits_before.copy_(frozen)
            mean.copy_(bits.running_fisher(f, mean, self.tasks_seen))
        p.set_interval(settings.total_bits, settings.interval)
        if settings.round_after_task:
            # A centre may be ±b itself, one grid step outside the limits of Eq. 4.
            torch.clamp(p.centre, p.low, p.high, out=p.weight)
            p.remainder.zero_()  # else the next step would add back what rounding removed


def _trunk_parameters(trunk: nn.Module) -> list[tuple[str, nn.Parameter, int]]:
    """Return (name, parameter, fan of its layer) for each parameter of the trunk."""
    return [
        (weight_name.removesuffix("weight") + kind, parameter, released_code.fan(tuple(layer.weight.shape)))
        for weight_name, layer in protected_layers(trunk).items()
        for kind, parameter in layer.named_parameters(recurse=False)
    ]
