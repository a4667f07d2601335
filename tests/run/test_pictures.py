"""Images in TensorBoard: a failed image is a warning, and training continues."""

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from blip_rl.console import optional_picture
from blip_rl.reporting import heatmaps
from blip_rl.run.train import train
from blip_rl.video import tensorboard
from tests.run.broken_off import command, process, settings, small_run

ONE_GAME = {"games": "cartpole-a", "steps": "128"}


def fail(*_arguments, **_options):
    raise ValueError("no such font")


def images(run):
    events = EventAccumulator(str(run), size_guidance={"images": 0})
    events.Reload()
    return events.Tags()["images"]


def test_pictures_that_fail_are_warnings_and_the_training_ends_well(tmp_path, monkeypatch):
    monkeypatch.setattr(heatmaps, "frozen_bits_image", fail)
    monkeypatch.setattr(tensorboard, "_clip_grid", fail)
    config = small_run(overrides=(*settings("blip"), "evaluation.gifs=true"), **ONE_GAME)
    with pytest.warns(UserWarning, match="could not log .*ValueError: no such font") as caught:
        run = train(config, out=tmp_path / "run", threads=1, quiet=True)
    told = " ".join(str(warning.message) for warning in caught)
    assert "the heatmap of fc1 after cartpole-a" in told
    assert "the video of cartpole-a at step 128" in told
    assert (run / "checkpoints" / "stage-01").is_dir()
    assert images(run) == []


def test_what_stops_a_run_is_not_taken_for_a_picture_that_failed():
    with pytest.raises(KeyboardInterrupt), optional_picture("the film"):
        raise KeyboardInterrupt


def test_jupyters_backend_and_latex_leave_training_its_pictures(tmp_path):
    """In a separate process, because matplotlib reads the environment when it is imported."""
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\n", encoding="utf-8")
    surroundings = {"MPLBACKEND": "module://matplotlib_inline.backend_inline", "MPLCONFIGDIR": str(tmp_path)}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in surroundings.items():
            patch.setenv(name, value)
        opened = process(command("blip", tmp_path / "run", settings("blip"), **ONE_GAME))
        with opened as child:
            _, errors = child.communicate(timeout=120)
    assert (child.returncode, errors) == (0, "")
    assert "bits/fc1/heatmap" in images(tmp_path / "run")
