"""Runs of a game with wrappers: trained, resumed, evaluated in processes, rendered and exported alike."""

import contextlib
import io

import pytest

from blip_rl.errors import UserError
from blip_rl.evaluation.rescore import evaluate_run
from blip_rl.learner.ppo import ContinualPPO
from blip_rl.recipes import resolve, trusting
from blip_rl.run.train import train
from blip_rl.sb3.export import export_run
from blip_rl.storage.run_folder import RunFolder
from blip_rl.video.options import RenderOptions
from blip_rl.video.render import render_run
from tests.doors import FLAT, GAME
from tests.run.broken_off import assert_equal, killed_at, resume_run, settings

pytestmark = pytest.mark.usefixtures("_blank_heatmaps")
TASK = """
[[tasks]]
name = "{name}"
game = "{game}"
wrappers = ["{flat}", {{ wrapper = "tests.doors:Scaled", factor = {factor} }}]
"""


def config(folder, name="doors.toml"):
    tasks = (TASK.format(name=f"by-{factor}", game=GAME, flat=FLAT, factor=factor) for factor in (2, 3))
    (folder / "doors.toml").write_text('description = "doors"\n' + "".join(tasks))
    with trusting():
        return resolve(f"{folder}/{name}", "finetune", steps="512", overrides=settings("finetune"))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("doors")
    return train(config(folder), out=folder / "run", threads=1, quiet=True)


def final_scores(run):
    return {(row.stage, row.task, row.seed): row.score for row in RunFolder(run).read_scores() if row.phase == "after"}


def test_scores_are_those_of_the_wrapped_game(run):
    scores = final_scores(run)
    assert scores
    for (_, task, _), score in scores.items():
        assert score % float(task.removeprefix("by-")) == 0


def test_a_resumed_run_is_the_same(run, tmp_path):
    with killed_at(ContinualPPO, "train", 6, True):
        train(config(tmp_path), out=tmp_path / "run", threads=1, quiet=True)
    resume_run(tmp_path / "run")
    assert_equal(run, tmp_path / "run")


def test_evaluation_in_processes_gives_the_same_scores(run):
    tables = [evaluate_run(run, episodes=2, workers=workers).text for workers in (1, 2)]
    assert tables[0] == tables[1]


def test_videos_show_the_evaluated_episodes(run, tmp_path):
    videos = render_run(run, RenderOptions(seconds=1.0), stages=[2], out=tmp_path)
    assert {path.name for path in videos} >= {"stage-02-by-2.gif", "stage-02-by-3.gif"}


def test_an_exported_agent_plays_the_wrapped_game_with_the_printed_code(run, tmp_path):
    (exported,) = export_run(run, games=["by-3"], out=tmp_path / "agent.zip")
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(exported.usage, {})
    first = min(seed for stage, task, seed in final_scores(run) if (stage, task) == (2, "by-3"))
    assert float(printed.getvalue()) == final_scores(run)[2, "by-3", first]


def test_a_wrapper_that_is_gone_is_refused_before_anything_is_written(run, tmp_path, monkeypatch):
    import tests.doors

    monkeypatch.delattr(tests.doors, "Scaled")
    with pytest.raises(UserError, match=r"'tests\.doors' has no wrapper 'Scaled'"):
        train(config(tmp_path), out=tmp_path / "run", threads=1, quiet=True)
    assert not (tmp_path / "run").exists()
    before = (run / "scores.csv").read_bytes()
    with pytest.raises(UserError, match=r"'tests\.doors' has no wrapper 'Scaled'"):
        evaluate_run(run, episodes=1)
    assert (run / "scores.csv").read_bytes() == before
