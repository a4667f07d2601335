"""Install the lowest versions that ``pyproject.toml`` allows and use every verb with them.

The wheel and every dependency and extra at its floor go into a virtual environment of their own. There, two CartPoles
and an Atari game are learned for a few steps, scored, filmed, reported, inspected, exported and imported, and the
``tensorboard`` command that ``train`` prints is run until it answers.

torch is the exception: its old wheels bring gigabytes of CUDA libraries, so the version of ``constraints.txt`` is
installed unless ``--torch-floor`` is given. Its floor is not checked then.

Usage: ``python scripts/check_floors.py [--torch-floor]``
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
import tomllib
import urllib.request
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
EXTRAS = ("control", "video")
SMALL = ("ppo.environments=2", "ppo.rollout_steps=16", "ppo.minibatches=2", "evaluation.episodes=1")
SMALL += ("evaluation.max_episode_steps=30", "method.fisher_samples=16", "evaluation.gifs=true")
_PATIENCE_SECONDS = 120


def floors(pyproject: str, constraints: str, *, torch_floor: bool) -> list[str]:
    """Requirements of the package and its extras for users, each pinned to its floor.

    Args:
        pyproject: Text of ``pyproject.toml``.
        constraints: Text of ``constraints.txt``.
        torch_floor: Whether to pin torch to its floor too, and not to the version of the constraints.

    Raises:
        ValueError: a requirement has no floor.
    """
    project = tomllib.loads(pyproject)["project"]
    extras = [text for extra in EXTRAS for text in project["optional-dependencies"][extra]]
    pinned = {}
    for requirement in map(Requirement, [*project["dependencies"], *extras]):
        found = [part.version for part in requirement.specifier if part.operator == ">="]
        if len(found) != 1:
            raise ValueError(f"{requirement} in pyproject.toml has no floor: expected one >=")
        wanted = f"{requirement.name}=={found[0]}"
        if requirement.name == "torch" and not torch_floor:
            wanted = next(line for line in constraints.splitlines() if line.startswith("torch=="))
        pinned[requirement.name] = wanted
    return list(pinned.values())


def run(*command: object, cwd: Path) -> str:
    """Run a command and return what it printed; on failure show that and stop."""
    # Without PYTHONPATH, which may name the checkout: the installed wheel is tested.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{shlex.join(words)}\n{done.stdout}{done.stderr}\nexited with {done.returncode}")
    return done.stdout


def install(folder: Path, pins: list[str]) -> Path:
    """Build the wheel, install it with these versions into an environment, and return its folder of programs."""
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    (wheel,) = folder.glob("*.whl")
    run(sys.executable, "-m", "venv", folder / "venv", cwd=folder)
    programs = folder / "venv" / "bin"
    constraints = folder / "floors.txt"
    constraints.write_text("\n".join(pins) + "\n", encoding="utf-8")
    wanted = f"blip-rl[{','.join(EXTRAS)}] @ {wheel.as_uri()}"
    run(programs / "python", "-m", "pip", "install", "--quiet", "-c", constraints, wanted, cwd=folder)
    return programs


def use(programs: Path, folder: Path) -> None:
    """Run every verb."""
    blip_rl = programs / "blip-rl"
    settings = [part for setting in SMALL for part in ("--set", setting)]
    for games, run_name in (("cartpole-a,cartpole-b", "cartpoles"), ("pong", "pong")):
        train = [blip_rl, "train", "--games", games, "--steps", "64", "--threads", "1", "--out", run_name, *settings]
        printed = run(*train, cwd=folder)
        run(blip_rl, "evaluate", run_name, "--workers", "2", cwd=folder)
        run(blip_rl, "render", run_name, "--episodes", "1", "--seconds", "1", cwd=folder)
        run(blip_rl, "render", run_name, "--episodes", "1", "--seconds", "1", "--format", "mp4", cwd=folder)
        run(blip_rl, "report", run_name, cwd=folder)
        run(blip_rl, "inspect", run_name, cwd=folder)
        run(blip_rl, "watch", run_name, cwd=folder)
        run(blip_rl, "export", run_name, "--out", f"{run_name}-zips", cwd=folder)
        answer(printed, programs, folder)
        print(f"{games}: trained, scored, filmed, reported, inspected, exported and shown in TensorBoard")
    (agent, *_) = sorted((folder / "pong-zips").glob("*.zip"))
    run(blip_rl, "import", agent, "--game", "pong", "--out", "imported", cwd=folder)
    sweep = ["--agents", "blip,ewc", "--games", "cartpole-a,cartpole-b", "--seeds", "0", "--steps", "64", *settings]
    run(blip_rl, "sweep", *sweep, "--out", "sweep", cwd=folder)
    run(blip_rl, "report", "sweep", cwd=folder)
    run(blip_rl, "list", cwd=folder)


def answer(printed: str, programs: Path, folder: Path) -> None:
    """Run the ``tensorboard`` command that a training printed until its page can be read, and stop it."""
    found = re.search(r"^curves +(tensorboard .*)$", printed, re.MULTILINE)
    if found is None:
        sys.exit(f"blip-rl train printed no tensorboard command:\n{printed}")
    _, *arguments = shlex.split(found[1])
    log = folder / "tensorboard.txt"
    with log.open("w") as output:
        command = [programs / "tensorboard", *arguments, "--port", "0", "--host", "localhost"]
        board = subprocess.Popen(command, cwd=folder, stdout=output, stderr=output)
    try:
        with urllib.request.urlopen(_address(board, log) + "data/runs", timeout=_PATIENCE_SECONDS) as page:
            page.read()
    finally:
        board.terminate()
        board.wait()


def _address(board: subprocess.Popen[bytes], log: Path) -> str:
    """Wait until TensorBoard says where it is."""
    for _ in range(_PATIENCE_SECONDS * 10):
        found = re.search(r"https?://\S+", log.read_text(encoding="utf-8").partition("TensorBoard ")[2])
        if found:
            return found[0]
        if board.poll() is not None:
            break
        time.sleep(0.1)
    sys.exit(f"tensorboard does not answer:\n{log.read_text(encoding='utf-8')}")


def main() -> None:
    """Install the floors and use them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--torch-floor", action="store_true", help="torch at its floor too")
    options = parser.parse_args()
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    pins = floors((ROOT / "pyproject.toml").read_text(encoding="utf-8"), constraints, torch_floor=options.torch_floor)
    print("installing", *pins)
    with tempfile.TemporaryDirectory(prefix="blip-rl-floors-") as name:
        use(install(Path(name), pins), Path(name))


if __name__ == "__main__":
    main()
