"""Build the wheel, install it into an environment of its own, and use it from outside the checkout.

Finds what an editable install hides: a recipe or a page template that the wheel does not carry, and an import that only
a development dependency satisfies. Usage: ``python scripts/check_wheel.py``
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent

CONFIG = """agent_name = "blip"
seed = 0
[agent.method]
name = "blip"
[[tasks]]
name = "pong"
steps = 1000
random_score = 0.0
reference_score = 1.0
"""
SCORES = """env_steps,stage,phase,task,seed,return,length_steps,truncated,normalised,actions
1000,1,after,pong,1000003,0.5,9,0,0.5,greedy
"""

IMPORT_EVERYTHING = """
import importlib, pkgutil, sys, blip_rl
for module in pkgutil.walk_packages(blip_rl.__path__, "blip_rl."):
    if not module.name.endswith("__main__"):
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as error:
            if error.name not in sys.argv[1:]:  # packages of extras, which are imported only when they are used
                raise
"""


def run(*command: object, cwd: Path = ROOT) -> str:
    """Run a command and return what it printed; on failure show that and stop."""
    # A PYTHONPATH that holds the checkout would make the wheel look complete.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run([str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{shlex.join(map(str, command))}\n{done.stdout}{done.stderr}\nexited with {done.returncode}")
    return done.stdout


def build(folder: Path) -> Path:
    """Build the wheel of the checkout."""
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT)
    (wheel,) = folder.glob("*.whl")
    return wheel


def install(wheel: Path, folder: Path) -> Path:
    """Install a wheel with the pinned dependencies; return the environment's bin folder."""
    environment = folder / ".venv-wheel"
    run(sys.executable, "-m", "venv", environment)
    python = environment / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt", wheel, cwd=folder)
    return python.parent


def packages_of_extras() -> list[str]:
    """Return the import names of the packages that only extras for users bring."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"].items()
    brought = {Requirement(text).name for name, texts in extras if name not in ("dev", "docs") for text in texts}
    always = {Requirement(text).name for text in project["dependencies"]}
    return [name.replace("-", "_") for name in sorted(brought - always)]


def check_lists(programs: Path, folder: Path) -> None:
    """Check that the installed command finds every recipe of the checkout, and that every agent resolves."""
    listed = {
        noun: {line.split()[0] for line in run(programs / "blip-rl", "list", noun, cwd=folder).splitlines()}
        for noun in ("agents", "sequences")
    }
    for noun, kind in (("agents", "agents"), ("sequences", "envs")):
        expected = {path.stem for path in (ROOT / kind).glob("*.toml")}
        if not expected or listed[noun] != expected:
            sys.exit(f"the installed wheel lists {noun} {sorted(listed[noun])}, the checkout has {sorted(expected)}")
    resolving = (
        "from blip_rl.recipes import resolve; [resolve('cartpole4', a) for a in " + repr(sorted(listed["agents"])) + "]"
    )
    run(programs / "python", "-c", resolving, cwd=folder)  # with the bases that the recipes inherit from
    print(f"the wheel lists and resolves {len(listed['agents'])} agents and {len(listed['sequences'])} sequences")


def check_scores(programs: Path) -> None:
    """Check that the published scores of Atari are in the wheel."""
    code = "from blip_rl.reference_scores import published_scores; print(len(published_scores()))"
    found = run(programs / "python", "-c", code, cwd=programs).strip()
    if found != "57":
        sys.exit(f"the installed wheel has random and human scores of {found} games: expected 57")
    print(f"the wheel has random and human scores of {found} games")


def check_report(programs: Path, folder: Path) -> None:
    """Check that a run of one score becomes a page with its style."""
    recorded = folder / "run"
    recorded.mkdir()
    (recorded / "config.toml").write_text(CONFIG, encoding="utf-8")
    (recorded / "scores.csv").write_text(SCORES, encoding="utf-8")
    run(programs / "blip-rl", "report", recorded, cwd=folder)
    page = (recorded / "report.html").read_text(encoding="utf-8")
    missing = [part for part in ("</html>", "<style>", "@media", "data:image/svg+xml", "0.50") if part not in page]
    if missing:
        sys.exit(f"the installed wheel writes a report without {', '.join(missing)}")
    print(f"the wheel writes a report of {len(page) // 1024} KB")


def check_wheel(wheel: Path | None = None) -> None:
    """Install, list, report, import.

    Args:
        wheel: The wheel; None builds that of the checkout.
    """
    with tempfile.TemporaryDirectory(prefix="blip-rl-wheel-") as name:
        folder = Path(name)
        programs = install(wheel or build(folder), folder)
        check_lists(programs, folder)
        check_scores(programs)
        check_report(programs, folder)
        run(programs / "python", "-c", IMPORT_EVERYTHING, *packages_of_extras(), cwd=folder)
        print("every module of the wheel imports without development dependencies")


if __name__ == "__main__":
    check_wheel()
