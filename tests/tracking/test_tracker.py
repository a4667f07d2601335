"""A training with a tracker: same results, same values as TensorBoard, and it ends well whatever the tracker does."""

import importlib.util
import json
import time
import tomllib
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from stable_baselines3.common.logger import Image, Logger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import blip_rl as br
from blip_rl.cli import cli
from blip_rl.extras import install_command
from blip_rl.reporting import heatmaps, page
from blip_rl.run import train as train_module
from blip_rl.run.train import train
from blip_rl.tracking import saved, tracker
from blip_rl.tracking.events import EventFile
from blip_rl.tracking.names import CHOICES, TRACKERS
from blip_rl.tracking.sink import Histogram, Picture
from blip_rl.tracking.tracker import Tracker
from blip_rl.tracking.values import Document, Film
from tests.run.broken_off import killed_at, run_files, small_run
from tests.small_runs import small_config

ONE_GAME = {"games": "cartpole-a", "steps": "128"}


class Recorder:
    """A sink that keeps everything; ``fails`` makes it raise."""

    fails = False

    def __init__(self, run, settings):
        self.run, self.settings = run, settings
        self.id, self.place = run.id or "first-run", "somewhere"
        self.rows, self.files, self.closed = [], {}, None

    def log(self, values, step):
        if self.fails:
            raise ConnectionError("no network\nat all")
        self.rows.append((step, values))

    def file(self, path):
        self.files[path.name] = path.read_text(encoding="utf-8")

    def close(self, finished):
        self.closed = finished

    def points(self, tag):
        return [(step, values[tag]) for step, values in self.rows if tag in values]


@pytest.fixture
def sinks(monkeypatch):
    """The sinks that trainings open, in place of wandb's."""
    opened = []
    monkeypatch.setitem(tracker.SINKS, "wandb", lambda *about: opened.append(Recorder(*about)) or opened[-1])
    installed(monkeypatch, "wandb", object())
    return opened


@pytest.fixture
def short_report(monkeypatch):
    """A report page and heatmaps that take no time."""

    def write_report(runs, *, out):
        (out / "report.html").write_text("<p>")
        return page.ReportFiles(out / "report.html", out, ())

    monkeypatch.setattr(page, "write_report", write_report)
    monkeypatch.setattr(heatmaps, "frozen_bits_image", lambda *_: np.zeros((1, 1, 3), np.uint8))


def installed(monkeypatch, package, spec):
    """Let a package be found, or not with None."""
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: spec if name == package else find(name, *more))


def test_tracker_gets_what_tensorboard_gets_and_changes_no_result(sinks, finished_run, tmp_path):
    run = train(small_config(), out=tmp_path / "run", threads=1, quiet=True, track="wandb")
    (sink,) = sinks
    assert run_files(run) == run_files(finished_run)
    events = EventAccumulator(str(run), size_guidance={"scalars": 0, "images": 0, "histograms": 0})
    events.Reload()
    scalars = {tag: [(e.step, pytest.approx(e.value)) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    assert {tag: sink.points(tag) for tag in scalars} == scalars
    for tag in (*events.Tags()["images"], *events.Tags()["histograms"]):
        assert [step for step, _ in sink.points(tag)] == [1024, 2048]
    tags = {tag for _, values in sink.rows for tag in values}
    assert tags == {*scalars, *events.Tags()["images"], *events.Tags()["histograms"]}
    assert sink.settings["agent"] == "blip"
    assert sink.files["config.toml"] == (run / "config.toml").read_text()
    assert sink.files["command.txt"] == (run / "command.txt").read_text()
    assert "cartpole-b" in sink.files["report.html"]
    assert not (run / "report.html").exists()
    assert sink.closed is True


def test_resumed_run_continues_the_same_run_of_its_tracker(sinks, short_report, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    run = tmp_path / "my run"
    with killed_at(train_module, "consolidate", call=2):
        train(small_run(), out=run, threads=1, quiet=True, track="wandb")
    monkeypatch.delenv("WANDB_PROJECT")
    train_module.resume(run, threads=1, quiet=True)
    first, second = sinks
    assert (first.run.id, first.run.project, first.run.title) == (None, "mine", "my-run")
    assert (second.run.id, second.run.project) == ("first-run", "mine")
    assert second.settings == first.settings
    assert (first.closed, second.closed) == (False, True)
    assert json.loads((run / "tracker.json").read_text())["run"] == "first-run"
    steps = [step for sink in sinks for step, _ in sink.points("train/loss")]
    assert sorted(set(steps)) == list(range(128, 1025, 128))


def test_resumed_run_may_leave_its_tracker_out(sinks, short_report, tmp_path):
    with killed_at(train_module, "consolidate"):
        train(small_run(**ONE_GAME), out=tmp_path / "run", threads=1, quiet=True, track="wandb")
    br.resume(tmp_path / "run", track="none", threads=1)
    assert len(sinks) == 1


def test_tracker_that_fails_is_one_warning_and_the_training_ends(sinks, short_report, tmp_path, monkeypatch):
    monkeypatch.setattr(Recorder, "fails", True)
    with pytest.warns(UserWarning, match="wandb has not got everything") as caught:
        run = train(small_run(**ONE_GAME), out=tmp_path / "run", threads=1, quiet=True, track="wandb")
    assert len(caught) == 1
    assert str(caught[0].message).endswith("training continues: ConnectionError: no network")
    assert (run / "checkpoints" / "stage-01").is_dir()
    assert "report.html" in sinks[0].files


def test_tracker_that_cannot_be_reached_is_tried_again_by_resume(sinks, short_report, tmp_path, monkeypatch):
    def unreachable(*about):
        raise ConnectionError("no network.")

    run = tmp_path / "run"
    with monkeypatch.context() as patch, killed_at(train_module, "consolidate"):
        patch.setitem(tracker.SINKS, "wandb", unreachable)
        with pytest.warns(UserWarning, match="wandb cannot be used, .* alone: ConnectionError: no network$"):
            train(small_run(**ONE_GAME), out=run, threads=1, quiet=True, track="wandb")
    assert json.loads((run / "tracker.json").read_text())["run"] is None
    train_module.resume(run, threads=1, quiet=True)
    assert json.loads((run / "tracker.json").read_text())["run"] == "first-run"


def test_tracker_that_hangs_delays_neither_logging_nor_the_end(monkeypatch):
    monkeypatch.setattr(tracker, "_MOST_WAITING", 2)
    sink = Recorder(saved.TrackedRun("wandb", "p", "t", None), {})
    sink.log = lambda values, step: time.sleep(0.5)
    output = Tracker("wandb", sink)
    output.patience = 0.05
    began = time.monotonic()
    for step in range(9):
        output._later(partial(sink.log, {}, step))
    with pytest.warns(UserWarning, match="more than 2 logged steps wait for it"):
        output.close()
    assert time.monotonic() - began < 0.45


def test_second_interrupt_does_not_wait_for_the_tracker(sinks, short_report, tmp_path, monkeypatch):
    opened, open_tracker = [], train_module.open_tracker
    monkeypatch.setattr(train_module, "open_tracker", lambda *about: opened.append(open_tracker(*about)) or opened[-1])
    monkeypatch.setattr(Recorder, "log", lambda self, values, step: time.sleep(20))

    def interrupted(*about):
        raise KeyboardInterrupt

    monkeypatch.setattr(train_module, "consolidate", interrupted)
    with pytest.warns(UserWarning, match="within 0 s at the end"), pytest.raises(KeyboardInterrupt):
        train(small_run(**ONE_GAME), out=tmp_path / "run", threads=1, quiet=True, track="wandb")
    assert opened[0]._thread.is_alive()


def test_films_pictures_and_texts_reach_tracker_and_event_file(tmp_path):
    sink = Recorder(saved.TrackedRun("wandb", "p", "t", None), {})
    logger = Logger(str(tmp_path), [EventFile(str(tmp_path)), Tracker("wandb", sink)])
    weights = np.ones(3, np.float32)
    logger.record("games/pong", Film(b"GIF89a", (8, 4)))
    logger.record("run/config", Document("config.toml", "seed = 0\n", "`seed = 0`"))
    logger.record("run/report", Document("report.html", "<p>"))
    logger.record("picture", Image(np.zeros((2, 3, 3), np.uint8), "HWC"))
    logger.record("weights", weights)
    logger.record("word", "text")
    logger.record("hidden", 1.0, exclude="tensorboard")
    logger.dump(7)
    weights += 1
    logger.close()
    ((step, values),) = sink.rows
    assert (step, set(values)) == (7, {"games/pong", "picture", "weights"})
    assert isinstance(values["picture"], Picture)
    assert isinstance(values["weights"], Histogram)
    assert values["weights"].values.tolist() == [1, 1, 1]
    assert sink.files == {"config.toml": "seed = 0\n", "report.html": "<p>"}
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    (film,) = events.Images("games/pong")
    assert (film.encoded_image_string, film.width, film.height) == (b"GIF89a", 8, 4)
    assert events.Tags()["tensors"] == ["run/config/text_summary", "word/text_summary"]


def test_missing_package_is_one_message_with_its_extra_and_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    installed(monkeypatch, "mlflow", None)
    asked = ["train", "--games", "cartpole-a", "--track", "mlflow"]
    for more in ([], ["--dry-run"]):
        done = CliRunner().invoke(cli, [*asked, *more])
        assert done.exit_code == 2
        assert f"which is not installed: {install_command('mlflow')}" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "content",
    ['{"tracker": "wandb", "project": "p", "run": "../../x"}', '{"tracker": "os", "project": "p", "run": null}', "[]"],
)
def test_damaged_tracker_file_is_one_message(content, tmp_path):
    (tmp_path / "tracker.json").write_text(content)
    with pytest.raises(br.UserError, match=r"tracker\.json' cannot be read: .*remove it to resume without a tracker"):
        saved.chosen_tracker(tmp_path, None)


def test_unknown_tracker_is_one_message():
    with pytest.raises(br.UserError, match=r"track = 'wanb': did you mean wandb\?"):
        br.train(games=["cartpole-a"], track="wanb")


def test_trackers_have_an_extra_and_a_choice_on_the_command_line():
    recipe = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
    extras = recipe["project"]["optional-dependencies"]
    for name in TRACKERS:
        assert [requirement.partition(">")[0] for requirement in extras[name]] == [name]
    (option,) = [option for option in cli.commands["train"].params if option.name == "track"]
    assert tuple(option.type.choices) == CHOICES == ("none", *TRACKERS)
    assert set(tracker.SINKS) == set(TRACKERS) == set(saved.PROJECT_VARIABLES)
