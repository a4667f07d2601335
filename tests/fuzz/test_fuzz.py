"""A small part of ``scripts/fuzz.py``: the same targets, a few inputs. A failure names the options that repeat it."""

import importlib
import random
import sys
from pathlib import Path

import pytest

from blip_rl.reporting import bits
from blip_rl.storage import atomic, integrity
from blip_rl.untrusted import machine

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
INPUTS = {"recipes": 100, "folders": 40, "checkpoints": 60, "commands": 40}
SEED = 1_000


@pytest.fixture(scope="module", autouse=True)
def _scripts():
    """The fuzzer's parts can be imported, and no input is judged by this machine's memory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPTS))
        for module in (machine, bits, atomic, integrity):
            patch.setattr(module, "memory_bytes", lambda: 2**30)
        yield
    for name in [name for name in sys.modules if name.partition(".")[0] in ("_fuzz", "fuzz")]:
        del sys.modules[name]


def part(name):
    return importlib.import_module(name)


@pytest.fixture
def canaries(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])  # it adds the folder of its package
    return part("_fuzz.canary").Canaries(tmp_path)


@pytest.mark.parametrize("target", INPUTS)
def test_every_input_is_accepted_or_refused_with_a_message(target, tmp_path, canaries):
    fuzz, watch = part("fuzz"), part("_fuzz.watch")
    canaries.check()
    made = fuzz._make_target(target, tmp_path, canaries)
    kinds = []
    for number in range(INPUTS[target]):
        draw = random.Random(f"{SEED} {target} {number}")
        verdict = watch.judge(lambda draw=draw: made.attempt(draw), seconds=10)
        assert verdict.kind != "failed", (
            f"--target {target} --seed {SEED} --first {number}: {verdict.text}\n{verdict.trace}"
        )
        assert not canaries.triggered(), (
            f"--target {target} --seed {SEED} --first {number}: code from the input was run"
        )
        kinds.append(verdict.kind)
    assert {"accepted", "refused"} == set(kinds), "inputs with one outcome only test little"
