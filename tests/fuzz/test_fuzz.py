"""A small part of what ``scripts/fuzz.py`` does, for every change: the same targets, other inputs, far fewer of them.

An input that fails is repeated by its number, as the failure says.
"""

import importlib
import io
import pickle
import random
import resource
import sys
import time
from pathlib import Path

import pytest
import torch

from blip_rl.errors import UserError
from blip_rl.report import bits
from blip_rl.storage import atomic, integrity
from blip_rl.untrusted import machine

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
INPUTS = {"recipes": 150, "folders": 60, "checkpoints": 100, "commands": 60}
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
def test_no_input_gets_more_than_a_message(target, tmp_path, canaries):
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
        assert not canaries.sang(), f"--target {target} --seed {SEED} --first {number}: code from the input was run"
        kinds.append(verdict.kind)
    assert {"accepted", "refused"} == set(kinds), "inputs that all end alike look at one thing only"


def test_a_program_that_fails_is_found_out():
    judge = part("_fuzz.watch").judge

    def crash():
        raise KeyError("x")

    def run_on():
        end = time.monotonic() + 20
        while time.monotonic() < end:
            pass

    def flood():
        raise UserError("line\n" * 100)

    def ask_for_memory():
        raise UserError("DefaultCPUAllocator: can't allocate memory")

    assert "KeyError" in judge(crash, 10).text
    assert "hung" in judge(run_on, 0.2).text
    assert "lines" in judge(flood, 10).text
    assert judge(ask_for_memory, 10).kind == "failed"
    assert judge(lambda: None, 10).kind == "accepted"


@pytest.mark.parametrize("code", [1, 3, -11])
def test_a_command_that_ends_oddly_is_found_out(code):
    watch = part("_fuzz.watch")
    with pytest.raises(AssertionError, match=f"exit code {code}"):
        watch.check_ending(code, "train", "Error: x")
    with pytest.raises(AssertionError, match="Traceback"):
        watch.check_ending(2, "train", "Traceback (most recent call last)")
    with pytest.raises(AssertionError, match="without a word"):
        watch.check_ending(2, "train", " ")


def test_the_canaries_sing(canaries):
    canaries.check()
    for content in canaries.files[:2]:
        pickle.loads(content)
        assert canaries.sang()
        assert not canaries.sang()
    torch.load(io.BytesIO(canaries.files[2]), weights_only=False)
    assert canaries.sang()


def test_alike_failures_are_told_once():
    failures = [{"input": n, "kind": "failed", "text": "a.py:1 f: KeyError"} for n in (7, 3, 9)]
    found = {"inputs": 20, "accepted": 10, "refused": 7, "failed": 3, "seconds": 1.0, "failures": failures}
    text = part("fuzz").report({"recipes": found})
    assert "| recipes | 20 | 10 | 7 | 3 | 1 |" in text
    assert "- recipes 7 (3×): a.py:1 f: KeyError" in text


def test_an_input_is_its_number():
    change = part("_fuzz.change")
    content = b'a = 1\nb = "x"\n[c]\nd = [1, 2]\n'
    made = [[change.toml(random.Random(f"0 {n}"), content) for n in range(20)] for _ in range(2)]
    assert made[0] == made[1]
    assert len(set(made[0])) > 10


def test_memory_is_limited_for_inputs(monkeypatch):
    limits = []
    monkeypatch.setattr(resource, "setrlimit", lambda kind, limit: limits.append((kind, limit)))
    part("_fuzz.watch").limit_memory()
    ((kind, (soft, _)),) = limits
    assert kind == resource.RLIMIT_AS
    assert soft > 4 * 2**30
