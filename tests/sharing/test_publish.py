"""The published folder: a run that opens, plays and reports like the original, and its model card."""

import errno
import importlib.util
import json
import re
import shutil

import numpy as np
import pytest
from click.testing import CliRunner

import blip_rl as br
from blip_rl.cli import cli
from blip_rl.extras import install_command
from blip_rl.formatting import score_text
from blip_rl.reporting import page
from blip_rl.sharing import folder as sharing


@pytest.fixture
def run(finished_run, tmp_path):
    """A copy of the finished run, with a film and with files that are not published."""
    copy = shutil.copytree(finished_run, tmp_path / "run")
    (copy / "gifs").mkdir()
    (copy / "gifs" / "boxing.gif").write_bytes(b"GIF89a")
    (copy / "gifs" / "grid.gif").write_bytes(b"GIF89a")
    (copy / "tracker.json").write_text("{}")
    return copy


@pytest.fixture
def short_report(monkeypatch):
    """A report page that takes no time."""

    def write_report(runs, *, out):
        (out / "report.html").write_text("<p>")
        return page.ReportFiles(out / "report.html", out, ())

    monkeypatch.setattr(sharing, "write_report", write_report)


def front_matter(card):
    head = re.match(r"---\n(.*?)\n---\n", card, re.DOTALL).group(1)
    return {key: json.loads(value) for key, _, value in (line.partition(": ") for line in head.splitlines())}


def test_published_folder_is_a_run_with_a_model_card(run):
    written = br.publish(run)
    assert written.path == run / "hub"
    assert written.address is None
    files = {str(path.relative_to(written.path)) for path in written.path.rglob("*") if path.is_file()}
    tables = {f"{name}.csv" for name in ("scores", "returns", "bits", "plasticity", "speed")}
    stages = {f"checkpoints/stage-0{stage}/{file}" for stage in (1, 2) for file in sharing.STAGE_FILES}
    about = {"README.md", "report.html", "scores.png", "config.toml", "command.txt", "environment.json"}
    assert files == {*tables, *stages, *about, "gifs/boxing.gif", "gifs/grid.gif"}
    assert written.size == sum((written.path / file).stat().st_size for file in files)

    original, published = br.load(run), br.load(written.path)
    assert published.metrics() == original.metrics()
    observations = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    for game in ("cartpole-a", "cartpole-b"):
        actions = [one.agent(game=game).predict(observations)[0].tolist() for one in (original, published)]
        assert actions[0] == actions[1]

    card = (written.path / "README.md").read_text(encoding="utf-8")
    about = front_matter(card)
    assert (about["library_name"], about["license"], about["pipeline_tag"]) == (
        "blip-rl",
        "mit",
        "reinforcement-learning",
    )
    assert {"continual-learning", "blip", "cartpole-a"} <= set(about["tags"])
    last = [row.score for row in original.scores if (row.task, row.stage, row.phase) == ("cartpole-a", 2, "after")]
    (first, _) = about["model-index"][0]["results"]
    assert first["metrics"][0]["value"] == f"{np.mean(last):.2f} +/- {np.std(last):.2f}"
    assert f"| {score_text(np.mean(last))} | {score_text(np.std(last))} | 22.2 | 500 (the highest return) |" in card
    assert f"(mean of the normalised scores at the end): {score_text(original.metrics().acc)}" in card
    assert (run / "command.txt").read_text().strip() in card
    assert "](gifs/grid.gif)" in card
    assert "](scores.png)" in card
    assert "must be told which game it plays" in card


def test_publishing_again_replaces_the_folder_in_the_run_and_no_other(run, tmp_path, short_report):
    br.publish(run, licence="cc-by-4.0")
    br.publish(run, stages=[2])
    assert [path.name for path in (run / "hub" / "checkpoints").iterdir()] == ["stage-02"]
    assert 'license: "mit"' in (run / "hub" / "README.md").read_text(encoding="utf-8")
    (tmp_path / "mine").mkdir()
    with pytest.raises(br.UserError, match="mine' exists"):
        br.publish(run, out=tmp_path / "mine")
    options = ["--stage", "1", "--licence", "cc-by-4.0", "--private"]
    done = CliRunner().invoke(cli, ["publish", str(run), "--out", str(tmp_path / "new"), *options])
    assert done.exit_code == 0, done.output
    assert f"the card is {tmp_path / 'new' / 'README.md'}" in done.output
    assert br.load(tmp_path / "new").stages == [1]


def test_a_failure_keeps_the_folder_that_was_published_before(run, short_report, monkeypatch):
    br.publish(run)
    before = {path: path.read_bytes() for path in sorted((run / "hub").rglob("*")) if path.is_file()}

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(sharing, "model_card", full)
        with pytest.raises(OSError, match="No space left"):
            br.publish(run)
    scores = run / "scores.csv"
    scores.write_text(scores.read_text().replace(",after,", ",never,", 1))
    with pytest.raises(br.UserError, match=rf"'{scores}', line 11"):
        br.publish(run)
    assert {path: path.read_bytes() for path in sorted((run / "hub").rglob("*")) if path.is_file()} == before
    assert [path.name for path in run.glob(".blip-rl-*")] == []


def test_the_push_command_is_that_of_the_folder_that_was_written(run, tmp_path, short_report, monkeypatch):
    options = ["--stage", "1", "--licence", "cc-by-4.0", "--private"]
    done = CliRunner().invoke(cli, ["publish", str(run), *options])
    assert done.output.splitlines()[1:] == [f"push  blip-rl publish {run} {' '.join(options)} --to USER/NAME"]
    monkeypatch.chdir(tmp_path)
    for out, written in (("my run", "'my run'"), ("-new", "./-new")):
        done = CliRunner().invoke(cli, ["publish", str(run), *options, f"--out={out}"])
        assert done.exit_code == 0, done.output
        _, push, name = done.output.splitlines()
        assert push == f"push  hf upload --private USER/NAME {written}"
        assert name == f"name  USER/NAME is in {out}/README.md, too: replace it there"
        assert "USER/NAME" in (tmp_path / out / "README.md").read_text(encoding="utf-8")


def test_the_card_gives_the_steps_that_were_played(run, short_report):
    config = run / "config.toml"
    config.write_text(config.read_text().replace("steps = 1024", "steps = 1000"))  # learned in rollouts of 128
    card = (br.publish(run).path / "README.md").read_text(encoding="utf-8")
    assert "seed 0, 2,048 training steps." in card


def test_unfinished_or_damaged_run_is_refused_and_nothing_is_written(run, short_report):
    weights = run / "checkpoints" / "stage-01" / "policy.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(br.UserError, match=r"policy\.safetensors"):
        br.publish(run)
    weights.write_bytes(content)
    with pytest.raises(br.UserError, match="stage 3 has no checkpoint: expected one of 1, 2"):
        br.publish(run, stages=[3])
    shutil.rmtree(run / "checkpoints" / "stage-02")
    with pytest.raises(br.UserError, match="is not finished"):
        br.publish(run)
    assert not (run / "hub").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"licence": "All rights"}, "licence 'All rights': expected an identifier"),
        ({"licence": 3}, "licence = 3: expected text"),
        ({"to": "nobody"}, "'nobody': expected USER/NAME"),
        ({"to": "a/../b"}, "expected USER/NAME"),
        ({"stages": "1"}, "stages = '1': expected a list"),
    ],
)
def test_bad_arguments_are_one_message_each(options, message, run):
    with pytest.raises(br.UserError, match=message):
        br.publish(run, **options)
    assert not (run / "hub").exists()


def test_pushing_without_the_package_names_the_extra_and_writes_nothing(run, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "huggingface_hub" else find(name, *more)
    )
    done = CliRunner().invoke(cli, ["publish", str(run), "--to", "user/name"])
    assert done.exit_code == 2
    assert f"--to needs the package huggingface_hub: {install_command('hub')}" in done.stderr
    done = CliRunner().invoke(cli, ["evaluate", "hf:user/name"])
    assert done.exit_code == 2
    assert f"hf:user/name needs the package huggingface_hub: {install_command('hub')}" in done.stderr
    assert not (run / "hub").exists()
