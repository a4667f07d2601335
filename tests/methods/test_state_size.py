"""The size of each method's state: as forecast before the first task, and as documented."""

import pytest
from gymnasium import spaces

from blip_rl.methods import method_names
from blip_rl.methods.base import Network
from tests.methods.small_tasks import TRUNKS, learn, three_tasks
from tests.methods.test_contract import from_recipe

SETTINGS = {"clear": {"capacity_frames": 60}, "packnet": {"tasks": 3}}
AT_MOST = {"gpm", "sgp"}
BYTES = {"blip": 13, "ewc": 12, "ewc_online": 8, "l2": 4, "finetune": 0, "freeze": 0}
"""Bytes per trunk parameter after any number of tasks (docs/methods.md)."""


@pytest.mark.parametrize("kind", TRUNKS)
@pytest.mark.parametrize("name", [name for name in method_names() if name != "multitask"])
def test_state_size_is_forecast_before_the_first_task(name, kind):
    trunk, tasks, method = TRUNKS[kind][0](), three_tasks(kind), from_recipe(name, **SETTINGS.get(name, {}))
    parameters, space = list(trunk.parameters()), spaces.Box(-1, 1, tasks[0].shape)
    method.start_task(trunk)
    forecasts = [method.kept_bytes(Network(trunk, space, (4, 6, 3)[:number])) for number in (1, 2, 3)]
    for number, (forecast, task) in enumerate(zip(forecasts, tasks, strict=True), start=1):
        learn(method, trunk, task, steps=3)
        kept = sum(tensor.nbytes for tensor in method.state().tensors.values())
        small_frames = 2.2 if name == "clear" else 1  # beside which CLEAR's policies and values are not small
        assert kept <= small_frames * forecast
        assert name in AT_MOST or kept >= 0.9 * forecast
        if name in BYTES:
            assert kept == BYTES[name] * sum(p.numel() for p in parameters)
        elif name == "single":  # a copy for each task and one of the initial weights
            assert kept == 4 * (number + 1) * sum(p.numel() for p in parameters)
        elif name == "packnet":  # the owner of each weight, none of biases
            assert kept == sum(p.numel() for p in parameters if p.dim() > 1)
