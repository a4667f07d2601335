"""Fixtures that several rooms share."""

import json
from pathlib import Path

import jaxtyping
import numpy as np
import pytest
import torch
from hypothesis import settings

from blip_rl.reporting import heatmaps
from tests.small_runs import small_config

# The same examples on every machine, and no failure because a shared machine was slow for a moment.
settings.register_profile("repeatable", derandomize=True, deadline=None, database=None)
settings.load_profile("repeatable")

# Set by test folder below; also for fixtures of wider scope, which run first.
jaxtyping.config.update("jaxtyping_disable", True)


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """Small tensors lose time to threads, and sums in a fixed order make results repeatable."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _logs_apart(tmp_path_factory):
    """stable-baselines3 makes a folder for every agent that learns, and leaves it in the system's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SB3_LOGDIR", str(tmp_path_factory.mktemp("sb3")))
        yield


@pytest.fixture(scope="session", autouse=True)
def _trust_apart(tmp_path_factory):
    """Tests neither read nor change what the user who runs them trusts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.getbasetemp() / "state"))
        yield


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002  # what stable-baselines3 draws from


@pytest.fixture(autouse=True)
def _shapes_are_checked(request):
    """Check calls of core in the tests of core and methods alone: checks slow training runs down."""
    jaxtyping.config.update("jaxtyping_disable", request.path.parent.name not in ("core", "methods"))
    yield
    jaxtyping.config.update("jaxtyping_disable", True)


@pytest.fixture
def without_type_checks(monkeypatch):
    """For tests that pass arguments of a wrong type: the messages are those that users see."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


class Golden:
    """What the authors' release computed on a small network: arrays by name, and the settings behind them."""

    def __init__(self, path):
        self._arrays = dict(np.load(path, allow_pickle=False))
        self.settings = json.loads(str(self._arrays.pop("meta")))

    def __getitem__(self, name):
        return torch.from_numpy(self._arrays[name])

    def number(self, name):
        return float(self._arrays[name])


@pytest.fixture(scope="session")
def golden():
    return Golden(Path(__file__).parent / "golden" / "reference_small.npz")


@pytest.fixture(scope="module")
def _blank_heatmaps():
    """Blank heatmaps for resume tests: drawing them dominates the run time, and no test compares them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(heatmaps, "frozen_bits_image", lambda *_: np.zeros((1, 1, 3), np.uint8))
        yield


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory) -> Path:
    """A BLIP run over two CartPoles, made once."""
    from blip_rl.run.train import train

    return train(small_config(), out=tmp_path_factory.mktemp("runs") / "run", threads=1, quiet=True)
