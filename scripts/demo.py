"""Train BLIP and fine-tuning side by side on the same games, and show what each has forgotten.

Writes both runs, a comparison report and a video to a new folder below ``runs/``. ``make demo`` and ``make demo-atari``
call it. Usage: ``python scripts/demo.py --games cartpole4``
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

import numpy as np

from blip_rl.cli.watch import Display
from blip_rl.reporting.live import RunWatch
from blip_rl.reporting.run_record import RunRecord, load_run
from blip_rl.storage.new_folder import make_folder, stamped

AGENTS = ("blip", "finetune")
SEED = 0  # the default of blip-rl train
LOOK_SECONDS = 1.0
BLIP_RL = (sys.executable, "-P", "-m", "blip_rl")

Trainings = dict[Path, subprocess.Popen[bytes]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--games", default="cartpole4", metavar="LIST", help="as in blip-rl train")
    parser.add_argument("--steps", metavar="N", help="as in blip-rl train")
    parser.add_argument("--device", default="cpu", help="as in blip-rl train")
    parser.add_argument("--out", type=Path, default=stamped("demo"), metavar="FOLDER", help="new folder")
    options = parser.parse_args()
    folder = make_folder(options.out)
    settings = ["--games", options.games, "--seed", str(SEED), "--threads", "1", "--device", options.device, "--quiet"]
    settings += ["--steps", options.steps] if options.steps else []
    train_side_by_side([folder / agent for agent in AGENTS], settings)
    runs = [str(folder / agent) for agent in AGENTS]
    print("\nRendering the video and writing the report ...", flush=True)
    subprocess.run([*BLIP_RL, "render", *runs, "--scale", "1.5"], check=True)
    subprocess.run([*BLIP_RL, "report", *runs, "--out", str(folder)], check=True)
    print("\n".join(["", *conclusion([load_run(folder / agent) for agent in AGENTS], folder)]))


def train_side_by_side(runs: list[Path], settings: list[str]) -> None:
    """Train one agent in each folder, in processes of their own, and show their progress; stop all if one fails."""
    signal.signal(signal.SIGTERM, stop)
    print("Ctrl-C stops both and saves them.", flush=True)
    trainings = {
        run: subprocess.Popen([*BLIP_RL, "train", "--agent", run.name, "--out", str(run), *settings]) for run in runs
    }
    try:
        follow(trainings)
    except KeyboardInterrupt:
        sys.exit(130)  # Ctrl-C reaches the trainings as well: each prints how to resume it
    finally:
        for training in trainings.values():
            if training.poll() is None:
                training.terminate()
        for training in trainings.values():
            training.wait()
    failed = [run.name for run, training in trainings.items() if training.returncode]
    if failed:
        sys.exit(f"Error: the training of {', '.join(failed)} failed (see above)")


def stop(number: int, frame: FrameType | None) -> None:
    """Stop the trainings before this process ends."""
    sys.exit(128 + number)


def follow(trainings: Trainings) -> None:
    """Show the progress until all trainings have ended, or one has failed."""
    while not all((run / "config.toml").exists() for run in trainings):  # the libraries are being loaded
        if ended(trainings):
            return
        time.sleep(LOOK_SECONDS)
    watches = [RunWatch(run) for run in trainings]
    for one in watches:
        print(one.title)
    display = Display([run.name for run in trainings])
    while not ended(trainings):
        display.show([one.look() for one in watches])
        time.sleep(LOOK_SECONDS)
    display.show([one.look() for one in watches], last=True)


def ended(trainings: Trainings) -> bool:
    """Return whether all trainings have ended, or one has failed."""
    codes = [training.poll() for training in trainings.values()]
    return any(codes) or None not in codes


def conclusion(runs: list[RunRecord], folder: Path) -> list[str]:
    """Return what was learned, what each agent has forgotten, and where to look."""
    matrices = [(run.agent, scores.after_normalised) for run in runs if (scores := run.scores) is not None]
    learned = [f"{agent} {mean_and_worst(np.diag(matrix))}" for agent, matrix in matrices]
    kept = [
        f"{agent} {np.diag(matrix)[:-1].mean():z.2f} → {mean_and_worst(matrix[-1, :-1])}" for agent, matrix in matrices
    ]
    games = runs[0].tasks
    return [
        f"just after learning  {', '.join(learned)}: mean score of all {len(games)} games",
        f"at the end           {', '.join(kept)}: games before the last, just after learning → at the end",
        f"report               {folder / 'report.html'}: learning curves, score matrices, video of both agents",
        f"Scores: 0 is random play, 1 {games[0].reference_name}. Single seed ({SEED}, not selected by its result).",
    ]


def mean_and_worst(scores: np.ndarray) -> str:
    """Return the mean of the scores of several games, and the lowest, which the mean hides."""
    return f"{scores.mean():z.2f} (worst {scores.min():z.2f})"


if __name__ == "__main__":
    main()
