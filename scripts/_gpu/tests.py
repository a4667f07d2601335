"""The tests that need a GPU, with each one's outcome."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from _gpu.results import Results, step_options

_ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    """Run the tests marked gpu; skipped without CUDA."""
    options = step_options(__doc__)
    results = Results(options.out, options.seconds)
    if not options.device.startswith("cuda"):
        results.put("skipped", f"device {options.device}: these tests need CUDA")
        return
    with TemporaryDirectory(prefix="blip-rl-gpu-") as folder:
        report = Path(folder, "tests.xml")
        # Warnings are no errors here: the machine's libraries need not be the pinned ones.
        settings = ["-m", "gpu", "-o", "filterwarnings=default", "-p", "no:cacheprovider", "-q"]
        settings += ["-n", "4"] if find_spec("xdist") else []
        command = [sys.executable, "-m", "pytest", "tests/learner", *settings, f"--junitxml={report}"]
        code = subprocess.run(command, cwd=_ROOT, check=False).returncode
        results.put("exit", code)
        if report.exists():
            results.put("outcomes", outcomes(report))


def outcomes(report: Path) -> dict[str, str]:
    """Name of a test → passed, skipped, or the first line of its failure, from a JUnit file."""
    found = {}
    for case in ElementTree.parse(report).iter("testcase"):
        bad = [child for child in case if child.tag in ("failure", "error", "skipped")]
        found[case.get("name", "")] = "passed" if not bad else f"{bad[0].tag}: {bad[0].get('message', '')}"[:400]
    return found


if __name__ == "__main__":
    main()
