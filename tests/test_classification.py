"""``examples/classification.py``: its data, its protocol on a few epochs, its tables and its messages."""

import gzip
import importlib.util
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from blip_rl.errors import UserError

pytest.importorskip("sklearn")
SCRIPT = Path(__file__).parents[1] / "examples" / "classification.py"
NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
NOWHERE = Path("nowhere")


@pytest.fixture
def script(monkeypatch):
    spec = importlib.util.spec_from_file_location("classification", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "classification", module)
    spec.loader.exec_module(module)
    for name, settings in module.BENCHMARKS.items():
        monkeypatch.setitem(module.BENCHMARKS, name, settings | {"epochs": 2, "units": [16]})
    return module


class InProcess:
    """Stands in for the pool of processes."""

    def __init__(self, *_):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def map(self, function, jobs):
        return map(function, jobs)


def idx(values):
    return bytes((0, 0, 8, values.ndim)) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()


@pytest.fixture
def mnist(tmp_path):
    """A folder of 60 images to train on and 20 to test with; some files gzipped."""
    draw = np.random.default_rng(0)
    for name in NAMES:
        count = 60 if name.startswith("train") else 20
        labels = np.arange(count, dtype=np.uint8) % 10
        values = draw.integers(256, size=(count, 28, 28), dtype=np.uint8) if "images" in name else labels
        packed = name.startswith("t10k")
        (tmp_path / f"{name}{'.gz' if packed else ''}").write_bytes(
            gzip.compress(idx(values)) if packed else idx(values)
        )
    return tmp_path


def test_files_are_read_plain_and_gzipped(script, mnist):
    images, classes, tests = script.load(False, mnist)
    assert images.shape == (80, 28, 28)
    assert classes.tolist() == [*range(10)] * 8
    assert tests == 20
    plain = np.frombuffer((mnist / NAMES[0]).read_bytes()[16:], np.uint8)
    assert torch.equal(images[:60].flatten(), torch.tensor(plain).float())


@pytest.mark.parametrize("name", ["mnist5", "pmnist"])
def test_mnist_is_tested_on_its_test_images_alone(script, mnist, name):
    images, _, _ = script.load(False, mnist)
    normalised = ((images - images.mean()) / images.std()).sum((1, 2))
    tasks = script.make_tasks(name, 0, mnist)
    assert len(tasks) == {"mnist5": 5, "pmnist": 10}[name]
    for train, valid, test in tasks:
        sums = test[0].sum((1, 2, 3))
        assert (torch.cdist(sums[:, None], normalised[60:, None]).min(1).values < 1e-3).all()
        assert len(train[0]) + len(valid[0]) == (12 if name == "mnist5" else 60)


def test_mnist_is_learned_with_the_published_prior(script, mnist):
    acc, _, learned, *_ = script.run(("pmnist", f"blip-reference:{script.PRIOR}", 0, mnist))
    assert script.PRIOR == "fisher_prior=1e-11"
    assert 0 <= acc <= 1
    assert 0 <= learned <= 1


def damage(path, change):
    path.write_bytes(change(path.read_bytes()))


DAMAGE = {
    "missing": (0, None, r"has no train-images-idx3-ubyte or .*\.gz \(samples × 28 × 28 bytes\): expected MNIST's"),
    "truncated": (0, lambda raw: raw[:-1], r"sizes \[60, 28, 28\], 47,055 bytes: expected 00000803"),
    "empty": (1, lambda raw: b"", r"train-labels-idx1-ubyte has magic number , sizes \[0\], 0 bytes"),
    "other type": (1, lambda raw: b"\0\0\x0d" + raw[3:], r"magic number 00000d01, .*: expected 00000801"),
    "other size": (0, lambda raw: idx(np.zeros((60, 32, 32), np.uint8)), r"sizes \[60, 32, 32\], .* expected"),
    "not gzipped": (2, lambda raw: b"no gzip", r"t10k-images-idx3-ubyte\.gz cannot be read \(Not a gzipped file"),
    "gzip cut": (2, lambda raw: raw[:100], r"cannot be read \(Compressed file ended"),
    "fewer labels": (
        1,
        lambda raw: idx(np.zeros(59, np.uint8)),
        r"\[60, 20\] images, \[59, 20\] labels: expected as many",
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_missing_and_damaged_files_are_named(script, mnist, kind, monkeypatch, capsys):
    number, change, message = DAMAGE[kind]
    path = mnist / (NAMES[number] + (".gz" if number > 1 else ""))
    path.unlink() if change is None else damage(path, change)
    with pytest.raises(UserError, match=message):
        script.load(False, mnist)
    monkeypatch.setattr(sys, "argv", ["classification.py", "--benchmark", "mnist5", "--data", str(mnist)])
    with pytest.raises(SystemExit, match="2"):
        script.main()
    assert path.name.removesuffix(".gz") in capsys.readouterr().err or kind == "fewer labels"


def test_digits_are_split_into_pairs_of_classes(script):
    tasks = script.make_tasks("digits5", 0, NOWHERE)
    assert len(tasks) == 5
    sizes = [sum(len(task[part][0]) for task in tasks) for part in range(3)]
    assert sizes == [1223, 215, 359]  # of 1,797: 20 % for tests, 15 % of the others for validation
    assert all(set(classes.tolist()) == {0, 1} for task in tasks for _, classes in task)
    assert not torch.equal(tasks[0][0][0], script.make_tasks("digits5", 1, NOWHERE)[0][0][0])


def test_digits_are_permuted_differently_in_every_task(script):
    (first, *_), (second, *_), *_ = script.make_tasks("pdigits", 0, NOWHERE)
    assert torch.equal(first[1], second[1])
    assert not torch.equal(first[0], second[0])
    for one, other in zip(first[0].flatten(1), second[0].flatten(1), strict=True):
        assert torch.equal(one.sort().values, other.sort().values)


def test_a_convolutional_trunk_is_learned_and_protected(script):
    done = {rule: script.run(("digits5-conv", rule, 0, NOWHERE)) for rule in ("finetune", "blip")}
    assert done["finetune"][0] != done["blip"][0]
    trunk = sum(parameter.nbytes for parameter in script.make_trunk("digits5-conv", 8).parameters())
    assert any(isinstance(layer, nn.Conv2d) for layer in script.make_trunk("digits5-conv", 8))
    assert done["blip"][-1] - done["finetune"][-1] == pytest.approx(trunk / 4 * 13 / 1e6)


def test_a_diverged_task_keeps_its_best_weights(script):
    assert script.run(("digits5", "ewc:strength=1e+12", 0, NOWHERE))[0] > 0.3


def test_settings_are_tuned_on_other_seeds_and_the_best_is_compared(script, monkeypatch):
    """The best strength is 10 on the tuning seeds, and the worst on the others."""
    jobs = []

    def fake(job):
        jobs.append(job)
        _, rule, seed, _ = job
        acc = 0.9 if (rule == "ewc:strength=10") == (seed in script.TUNING_SEEDS) else 0.5
        return acc, -0.1, 0.9, 0.3, -0.4, 0.8, 1.0

    monkeypatch.setattr(script, "run", fake)
    lines = script.study(InProcess(), ["digits5", "digits5-conv"], ["blip", "finetune"], range(3), True, NOWHERE)
    text = "\n".join(lines)
    assert "digits5: settings, on seeds (100, 101)" in text
    assert "### digits5-conv, on seeds 0 to 2" in text
    assert (
        text.count("| `ewc:strength=10` | 50.00 [50.00, 50.00] | 30.00 [30.00, 30.00] | -40.00 [-40.00, -40.00] |") == 2
    )
    assert {name for name, _, seed, _ in jobs if seed in script.TUNING_SEEDS} == {"digits5"}


def test_published_numbers_are_beside_ours(script):
    runs = {"blip": [(0.97, -0.002, 0.98, 0.95, -0.01, 0.96, 5.0)]}
    rows = script.table("pmnist", runs, script.BENCHMARKS["pmnist"]["paper"])
    assert "| `blip` | 97.00 | 95.00 | +0.00 | -0.20 | -1.00 | 98.00 | 96.00 | 5.00 |" in rows
    assert rows[-2:] == [
        f"| {rule} | | | | |"
        for rule in ("BLIP in the paper | 97.31 | | | -0.21", "EWC in the paper | 95.78 | | | -4.20")
    ]


def test_the_report_replaces_the_tables_and_keeps_the_text_above(script, tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text(f"# Read me\n\n{script.MARK}\nold", encoding="utf-8")
    monkeypatch.setattr(script, "Pool", InProcess)
    words = ["--benchmark", "digits5", "--rules", "finetune", "ewc:strength=10", "--seeds", "1", "--out", str(page)]
    monkeypatch.setattr(sys, "argv", ["classification.py", *words])
    script.main()
    text = page.read_text(encoding="utf-8")
    assert text.startswith(f"# Read me\n\n{script.MARK}\n")
    assert "old" not in text
    assert "--rules finetune ewc:strength=10" in text
    assert "Per cent; seeds: 1 (no interval)." in text
    assert "| `ewc:strength=10` | " in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--rules", "bilp"], "unknown agent 'bilp': did you mean blip?"),
        (["--rules", "ewc:strengt=3"], "strengt"),
        (["--rules", "packnet"], "Packnet needs 'playing'"),
        (["--seeds", "0"], "--seeds 0 --workers 2: expected at least 1"),
        (["--benchmark", "cifar"], "invalid choice: 'cifar'"),
    ],
)
def test_a_mistake_exits_with_code_2(script, words, message, monkeypatch, capsys):
    monkeypatch.setattr(script, "Pool", InProcess)
    monkeypatch.setattr(sys, "argv", ["classification.py", *words])
    with pytest.raises(SystemExit, match="2"):
        script.main()
    assert message in capsys.readouterr().err


def test_the_commands_in_the_header_are_valid(script, monkeypatch, capsys):
    monkeypatch.setattr(script, "Pool", InProcess)
    monkeypatch.setattr(script, "load", lambda *_: None)
    monkeypatch.setattr(script, "study", lambda _, names, *rest: [f"learned {', '.join(names)}"])
    commands = [line.partition("#")[0].split() for line in script.__doc__.splitlines() if "python examples/" in line]
    for words in commands:
        monkeypatch.setattr(sys, "argv", words[1:])
        script.main()
    assert len(commands) == 2
    assert "learned digits5, pdigits" in capsys.readouterr().out
