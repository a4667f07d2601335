"""BLIP's classification experiments (Shi et al. 2021, Sec. 5): one trunk learns task after task, with a head for each.

    python examples/classification.py --benchmark digits5 pdigits --tune       # scikit-learn's handwritten digits
    python examples/classification.py --benchmark mnist5 pmnist --data FOLDER  # MNIST's four IDX files, gzipped or not

...5: five tasks of two classes; p...: each task permutes the pixels. As in the authors' release: SGD, a learning rate
divided by 3 after five epochs without improvement on the validation data, the best epoch's weights kept.
"""

import argparse
import copy
import functools
import gzip
import math
import os
import zlib
from concurrent.futures import ProcessPoolExecutor as Pool
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import ReduceLROnPlateau

import blip_rl as br
from blip_rl.core.intervals import describe, estimate
from blip_rl.core.metrics import (
    average_performance,
    backward_transfer,
    learned_later,
    worst_backward_transfer,
    worst_performance,
)
from blip_rl.core.released_code import reference_prior
from blip_rl.errors import UserError
from blip_rl.extras import install_command
from blip_rl.methods import make_method
from blip_rl.recipes.files import find_recipe, read_recipe
from blip_rl.storage.provenance import command, environment

MNIST = {"units": [1200], "lr": 0.01, "batch": 64, "epochs": 200}
DIGITS = {"tasks": 5, "units": [64, 64], "lr": 0.05, "batch": 32}
BENCHMARKS: dict[str, dict[str, Any]] = {  # paper: ACC and BWT of its Tables 1 and 2
    "mnist5": MNIST | {"tasks": 5, "paper": {"BLIP": (99.64, 0.01)}},
    "pmnist": MNIST | {"tasks": 10, "paper": {"BLIP": (97.31, -0.21), "EWC": (95.78, -4.20)}},
    "digits5": DIGITS | {"epochs": 40},
    "pdigits": DIGITS | {"batch": 64, "epochs": 25},
    "digits5-conv": DIGITS | {"units": [64], "epochs": 30, "tuned_on": "digits5"},
    "pdigits-1200": DIGITS | {"units": [1200], "batch": 64, "epochs": 25, "tuned_on": "pdigits"},
}
# The release's --F-prior for MNIST squares gradients averaged over 100 samples.
PRIOR = f"fisher_prior={reference_prior(1e-15, batch=100):g}"
RULES = ("blip", f"blip-paper:{PRIOR}", f"blip-reference:{PRIOR}", "ewc", "finetune", "freeze")
GRID = {
    "blip:first_task_drift": (1e-4, 1e-3, 1e-2, 1e-1, 1),
    "blip-paper:fisher_prior": (1e-11, 1e-9, 1e-7, 1e-5, 1e-3),
    "blip-reference:fisher_prior": (1e-11, 1e-9, 1e-7, 1e-5, 1e-3),
    "ewc:strength": (1, 10, 100, 1000, 10000),
}
TUNING_SEEDS = (100, 101)
MARK = "<!-- Tables: written by examples/classification.py. -->"
Data = tuple[Tensor, Tensor]  # images (samples, 1, side, side) and their classes


def read_idx(folder: Path, name: str, dimensions: int) -> Tensor:
    """Read a file in MNIST's format: magic number, sizes (big-endian), unsigned bytes."""
    path = next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)
    shape = " × ".join(["samples", "28", "28"][:dimensions])
    if path is None:
        raise UserError(f"{folder} has no {name} or {name}.gz ({shape} bytes): expected MNIST's IDX files in --data")
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} cannot be read ({error}): expected an IDX file; copy it again") from error
    start = 4 + 4 * dimensions
    sizes = np.frombuffer(raw[4:start].ljust(start - 4, b"\0"), ">u4").tolist()
    whole = raw[:4] == bytes((0, 0, 8, dimensions)) and len(raw) == start + math.prod(sizes)
    if not whole or sizes[1:] != [28, 28][: dimensions - 1]:
        found = f"{path} has magic number {raw[:4].hex()}, sizes {sizes}, {len(raw):,} bytes"
        raise UserError(f"{found}: expected 000008{dimensions:02x}, {shape} and as many bytes after; copy it again")
    return torch.from_numpy(np.frombuffer(raw, np.uint8, offset=start).reshape(sizes).copy())


@functools.cache
def load(digits: bool, folder: Path) -> tuple[Tensor, Tensor, int]:
    """Return images (samples, side, side), their classes, and how many at the end are for tests alone."""
    if digits:
        try:
            from sklearn.datasets import load_digits
        except ImportError as error:
            raise UserError(f"scikit-learn is not installed: {install_command('examples')}") from error
        found = load_digits()
        return torch.from_numpy(found.images).float(), torch.from_numpy(found.target), 0
    images = [read_idx(folder, f"{part}-images-idx3-ubyte", 3) for part in ("train", "t10k")]
    classes = [read_idx(folder, f"{part}-labels-idx1-ubyte", 1) for part in ("train", "t10k")]
    if [*map(len, images)] != [*map(len, classes)]:
        raise UserError(f"{folder} has {[*map(len, images)]} images, {[*map(len, classes)]} labels: expected as many")
    return torch.cat(images).float(), torch.cat(classes).long(), len(classes[1])


def make_tasks(name: str, seed: int, folder: Path) -> list[list[Data]]:
    """Return the training, validation and test data of each task."""
    images, classes, tests = load("digits" in name, folder)
    images = ((images - images.mean()) / images.std())[:, None]
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(images) - tests, generator=generator)
    test, order = (torch.arange(len(order), len(images)), order) if tests else order.tensor_split([len(order) // 5])
    valid, train = order.tensor_split([len(order) * 15 // 100])
    parts, tasks = (train, valid, test), []
    for task in range(BENCHMARKS[name]["tasks"]):
        if name.startswith("p"):
            pixels = torch.randperm(images[0].numel(), generator=generator)
            permuted = images.flatten(1)[:, pixels].view_as(images)
            tasks.append([(permuted[part], classes[part]) for part in parts])
            continue
        own = [part[classes[part] // 2 == task] for part in parts]
        tasks.append([(images[part], classes[part] % 2) for part in own])
    return tasks


def make_trunk(name: str, side: int) -> nn.Sequential:
    layers, inputs = [nn.Flatten()], side * side
    if name.endswith("conv"):
        layers = [nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2), nn.ReLU(), nn.Flatten()]
        inputs = 16 * ((side - 1) // 2) ** 2
    for sizes in pairwise((inputs, *BENCHMARKS[name]["units"])):
        layers += [nn.Linear(*sizes), nn.ReLU()]
    return nn.Sequential(*layers)


def learn(trunk: nn.Module, head: nn.Module, train: Data, valid: Data, method: br.Method, name: str) -> None:
    model, settings, best = nn.Sequential(trunk, head), BENCHMARKS[name], math.inf
    optimizer = torch.optim.SGD(model.parameters(), settings["lr"])
    schedule = ReduceLROnPlateau(optimizer, factor=1 / 3, patience=4, threshold=0)
    weights = copy.deepcopy(model.state_dict())
    with br.protect_module(trunk, optimizer, method) as guard:
        for _ in range(settings["epochs"]):
            for batch in torch.randperm(len(train[0])).split(settings["batch"]):
                optimizer.zero_grad()
                cross_entropy(model(train[0][batch]), train[1][batch]).backward()
                optimizer.step()
            with torch.no_grad():
                loss = cross_entropy(model(valid[0]), valid[1]).item()
            if loss < best:
                best, weights = loss, copy.deepcopy(model.state_dict())
            schedule.step(loss)
            if math.isnan(loss) or schedule.get_last_lr()[0] < 1e-4:  # EWC diverges if strength · F · lr > 2
                break
        model.load_state_dict(weights)
        guard.end_task([train[0][torch.randperm(len(train[0]))]], head)


def make_rule(rule: str) -> br.Method:
    """Build the method of a recipe, with one setting changed: ``ewc:strength=1000``."""
    agent, _, setting = rule.partition(":")
    key, _, value = setting.partition("=")
    section = read_recipe(find_recipe("agents", agent))["method"]
    sizes = {"fisher_samples": 8000} if "fisher_samples" in section else {}  # the release: 80 batches of 100
    return make_method(section | sizes | ({key: float(value)} if setting else {}))


def run(job: tuple[str, str, int, Path]) -> tuple[float, ...]:
    """Learn one sequence: benchmark, rule, seed, folder of MNIST's files."""
    name, rule, seed, folder = job
    torch.manual_seed(seed)
    tasks, method = make_tasks(name, seed, folder), make_rule(rule)
    trunk = make_trunk(name, tasks[0][0][0].shape[-1])
    heads = [nn.Linear(BENCHMARKS[name]["units"][-1], 10 if name.startswith("p") else 2) for _ in tasks]
    matrix = []
    for head, (train, valid, _) in zip(heads, tasks, strict=True):
        learn(trunk, head, train, valid, method, name)
        with torch.no_grad():
            tested = [(own(trunk(x)).argmax(1), y) for own, (_, _, (x, y)) in zip(heads, tasks, strict=True)]
        matrix.append([(answers == y).float().mean().item() for answers, y in tested])
    network = nn.ModuleList([trunk, *heads])
    memory = sum(tensor.nbytes for tensor in [*network.parameters(), *method.state().tensors.values()]) / 1e6
    worst = worst_performance(matrix), worst_backward_transfer(matrix), min(np.diagonal(matrix)[1:])
    return average_performance(matrix), backward_transfer(matrix), learned_later(matrix), *worst, memory


def compare(pool: Pool, name: str, rules: list[str], seeds: range, folder: Path) -> dict[str, list[Any]]:
    """Return for each rule and seed ACC, BWT, ACC of tasks 2… just learned, the worst task of each, megabytes."""
    done = pool.map(run, [(name, rule, seed, folder) for rule in rules for seed in seeds])
    return {rule: [next(done) for _ in seeds] for rule in rules}


def cell(values: tuple[float, ...] | list[float], sign: str = "") -> str:
    """Return per cent, aggregated over seeds, with the 95 % interval if there are enough of them."""
    found = estimate([100 * value for value in values])
    low, high = found.interval or (math.nan, math.nan)
    return f"{found.centre:{sign}.2f}" + (f" [{low:{sign}.2f}, {high:{sign}.2f}]" if found.interval else "")


def table(title: str, runs: dict[str, list[Any]], paper: dict[str, tuple[float, float]]) -> list[str]:
    """Return a table with a row for each rule; the paper's numbers last."""
    first = next(iter(runs))
    head = f"| rule | ACC | worst task | ACC − that of `{first}`, paired | BWT | worst task | just learned, tasks 2… "
    head += "| worst task | MB |"
    rows = [f"\n### {title}\n", head, "|---" * 9 + "|"]
    for rule, results in runs.items():
        acc, bwt, learned, *worst, memory = zip(*results, strict=True)
        lowest, most_lost, least = map(cell, worst, ("", "+", ""))
        paired = cell([one - other[0] for one, other in zip(acc, runs[first], strict=True)], "+")
        means = f"{cell(acc)} | {lowest} | {paired} | {cell(bwt, '+')} | {most_lost} | {cell(learned)} | {least}"
        rows.append(f"| `{rule}` | {means} | {max(memory):.2f} |")
    return rows + [f"| {who} in the paper | {acc:.2f} | | | {bwt:+.2f} | | | | |" for who, (acc, bwt) in paper.items()]


def study(pool: Pool, benchmarks: list[str], rules: list[str], seeds: range, tune: bool, folder: Path) -> list[str]:
    """Return the tables of the benchmarks, where asked for after those of the settings tuned for them."""
    lines, tuned = [], {}
    for name in benchmarks:
        on = BENCHMARKS[name].get("tuned_on", name)
        if tune and on not in tuned:
            grid = [f"{key}={value:g}" for key, values in GRID.items() for value in values]
            runs = compare(pool, on, grid, TUNING_SEEDS, folder)
            lines += table(f"{on}: settings, on seeds {TUNING_SEEDS}", runs, {})
            means = {rule: np.mean([acc for acc, *_ in results]) for rule, results in runs.items()}
            tuned[on] = [max((r for r in grid if r.startswith(key)), key=means.__getitem__) for key in GRID]
        runs = compare(pool, name, [*rules, *tuned.get(on, [])], seeds, folder)
        lines += table(f"{name}, on seeds {seeds[0]} to {seeds[-1]}", runs, BENCHMARKS[name].get("paper", {}))
    return lines


def main() -> None:
    """Run the study that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--benchmark", nargs="+", choices=BENCHMARKS, default=["digits5", "pdigits"])
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of MNIST's IDX files")
    parser.add_argument("--rules", nargs="+", default=RULES, help="recipes, each with one setting if need be")
    parser.add_argument("--tune", action="store_true", help="also rules with the best setting of a grid")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, help="Markdown file; what stands above the tables in it is kept")
    a = parser.parse_args()
    try:
        for name in a.benchmark:
            load("digits" in name, a.data)
        for rule in a.rules:
            make_rule(rule)
        if a.seeds < 1 or a.workers < 1:
            raise UserError(f"--seeds {a.seeds} --workers {a.workers}: expected at least 1 of each")
        with Pool(a.workers, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
            lines = study(pool, a.benchmark, a.rules, range(a.seeds), a.tune, a.data)
    except ValueError as error:
        parser.error(str(error))
    here = environment("cpu")
    text = f"""{MARK}

`{command()}`

Commit {here["commit"]}, torch {here["versions"]["torch"]}, {here["cores"]} cores, {here["system"]};
{sum(os.times()[2:4]) / 60:.1f} minutes of CPU time. Per cent; seeds: {a.seeds} ({describe(a.seeds) or "no interval"}).
{chr(10).join(lines)}
"""
    print(text)
    if a.out:
        a.out.write_text((a.out.read_text("utf-8") if a.out.exists() else "").partition(MARK)[0] + text, "utf-8")


if __name__ == "__main__":
    main()
