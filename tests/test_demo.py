"""scripts/demo.py: two agents side by side, their report and video, and what it says in the end."""

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "scripts" / "demo.py"


def start(folder, *options):
    command = [sys.executable, str(SCRIPT), "--games", "cartpole-a,cartpole-b", "--out", str(folder), *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_demo_ends_with_a_report_a_video_and_what_was_forgotten(tmp_path):
    with start(tmp_path / "demo", "--steps", "1024") as demo:
        output, _ = demo.communicate()
    assert demo.returncode == 0, output
    learned, forgot, look, seed = output.splitlines()[-4:]
    score = r"-?\d\.\d\d"
    both = rf"{score} \(worst {score}\)"
    assert re.match(rf"just after learning  blip {both}, finetune {both}: mean score of all 2 games", learned)
    assert re.match(rf"at the end           blip {score} → {both}, finetune {score} → {both}: ", forgot)
    assert f"{tmp_path}/demo/report.html" in look
    assert seed == "Scores: 0 is random play, 1 the highest return. Single seed (0, not selected by its result)."
    page = (tmp_path / "demo" / "report.html").read_text()
    assert "Video grid of blip and finetune: one row per agent" in page
    assert (tmp_path / "demo" / "blip" / "gifs" / "versus-finetune.gif").read_bytes().startswith(b"GIF89a")


def test_a_stopped_demo_saves_both_trainings(tmp_path):
    folder = tmp_path / "demo"
    with start(folder, "--steps", "10M") as demo:
        while not all((folder / agent / ".steps").exists() for agent in ("blip", "finetune")):
            assert demo.poll() is None
            time.sleep(0.1)
        demo.send_signal(signal.SIGTERM)
        output, _ = demo.communicate()
    assert demo.returncode == 128 + signal.SIGTERM
    for agent in ("blip", "finetune"):
        assert f"resume with: blip-rl train --resume {folder / agent}" in output
