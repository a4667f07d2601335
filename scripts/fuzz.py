"""Fuzz blip-rl with thousands of damaged and hostile inputs; each must be accepted or refused with a message.

    python scripts/fuzz.py --inputs 10000 --out fuzz.json

Targets: recipes and settings; run folders that are inspected, reported, and opened to be evaluated and resumed;
checkpoints of stages and snapshots; command lines. Each input is a valid one mutated at random, with a seed derived
from its number and ``--seed``, so ``--target T --first N --inputs 1`` repeats input N. It fails if it raises anything
but an error message, takes longer than ``--seconds``, requests more memory than there is, or triggers a canary: a
pickle, an archive or a package that creates a marker file if its code is run. Exit code 1 if any input failed.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from _measure import positive_int, provenance, show

TARGETS = ("recipes", "folders", "checkpoints", "commands")
_SHOWN = 12


def main() -> None:
    """Run the targets and print the table."""
    options = _options()
    if options.worker:
        _work(options)
        return
    results = {
        **provenance(),
        "targets": {target: _run_target(target, options) for target in options.target or TARGETS},
    }
    show(results, report(results["targets"]), options.out)
    sys.exit(any(found["failed"] for found in results["targets"].values()))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--inputs", type=positive_int, default=10_000, metavar="N", help="for each target (%(default)s)"
    )
    parser.add_argument("--target", action="append", choices=TARGETS, help="only this one; any number of times")
    parser.add_argument("--first", type=int, default=0, metavar="N", help="number of the first input (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of all inputs (%(default)s)")
    parser.add_argument("--seconds", type=float, default=10.0, metavar="S", help="limit of an input (%(default)s)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the results as JSON")
    parser.add_argument(
        "--worker", type=Path, help=argparse.SUPPRESS
    )  # where the process of a target writes its results
    return parser.parse_args()


def _run_target(target: str, options: argparse.Namespace) -> dict[str, Any]:
    """Run the inputs of a target in a separate process; if it crashes, continue after the input that crashed it."""
    begun, first, end = time.monotonic(), options.first, options.first + options.inputs
    records: list[dict[str, Any]] = []
    while first < end:
        with tempfile.TemporaryDirectory(prefix="blip-rl-fuzz-") as folder:
            log = Path(folder, "log.jsonl")
            asked = [
                "--target",
                target,
                "--first",
                str(first),
                "--inputs",
                str(end - first),
                "--seed",
                str(options.seed),
            ]
            command = [sys.executable, __file__, *asked, "--seconds", str(options.seconds), "--worker", str(log)]
            done = subprocess.run(command, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"})
            found = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.exists() else []
        records += found
        first += len(found)
        if first < end:
            if not found and done.returncode == 1:
                sys.exit(f"{target}: the fuzzer itself failed")
            records.append({"input": first, "kind": "failed", "text": f"the process ended with code {done.returncode}"})
            first += 1
    kinds = Counter(record["kind"] for record in records)
    failures = [record for record in records if record["kind"] == "failed"]
    counts = {kind: kinds[kind] for kind in ("accepted", "refused", "failed")}
    return {"inputs": len(records), **counts, "seconds": round(time.monotonic() - begun, 1), "failures": failures}


def _work(options: argparse.Namespace) -> None:
    """Main function of the process of one target: write a line per input, as soon as it is finished."""
    from _fuzz import canary, watch

    from blip_rl.reporting import bits
    from blip_rl.storage import atomic, integrity
    from blip_rl.untrusted import machine

    for module in (machine, bits, atomic, integrity):
        module.memory_bytes = lambda: 2**30  # less than the address space that is left to an input
    with tempfile.TemporaryDirectory(prefix="blip-rl-fuzz-") as folder, options.worker.open("w") as log:
        canaries = canary.Canaries(Path(folder))
        canaries.check()
        target = _make_target(options.target[0], Path(folder), canaries)
        importlib.import_module("torch._dynamo")  # imported by the first optimizer: not part of an input's time
        watch.limit_memory()
        for number in range(options.first, options.first + options.inputs):
            draw = random.Random(f"{options.seed} {options.target[0]} {number}")
            verdict = watch.judge(lambda draw=draw: target.attempt(draw), options.seconds)  # type: ignore[misc]
            if canaries.triggered():
                verdict = watch.Verdict("failed", "code from the input was run")
            failed = {"trace": verdict.trace} if verdict.kind == "failed" else {}
            text = verdict.text if verdict.kind == "failed" else ""
            log.write(json.dumps({"input": number, "kind": verdict.kind, "text": text, **failed}) + "\n")
            log.flush()


def _make_target(name: str, folder: Path, canaries: Any) -> Any:
    from _fuzz.checkpoints import Checkpoints
    from _fuzz.commands import Commands
    from _fuzz.folders import Folders
    from _fuzz.recipes import Recipes

    if name in ("folders", "checkpoints"):
        return {"folders": Folders, "checkpoints": Checkpoints}[name](folder, canaries)
    return {"recipes": Recipes, "commands": Commands}[name](folder)


def report(targets: dict[str, dict[str, Any]]) -> str:
    """Return a Markdown table, followed by the failures grouped by their text."""
    lines = ["| target | inputs | accepted | refused | failed | seconds |", "|---|---|---|---|---|---|"]
    for name, found in targets.items():
        cells = (f"{found[key]:,}" for key in ("inputs", "accepted", "refused", "failed"))
        lines.append(f"| {name} | {' | '.join(cells)} | {found['seconds']:,.0f} |")
    for name, found in targets.items():
        alike = Counter(failure["text"] for failure in found["failures"])
        first = {failure["text"]: failure["input"] for failure in reversed(found["failures"])}
        lines += [f"- {name} {first[text]} ({count}×): {text}" for text, count in alike.most_common(_SHOWN)]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
