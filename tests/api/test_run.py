"""``br.load``: scores, metrics and agents of a run folder."""

import math
import shutil
import subprocess
import sys

import numpy as np
import pytest
from stable_baselines3.common.evaluation import evaluate_policy

import blip_rl as br
from blip_rl.core import metrics
from blip_rl.reporting.scores import load_scores


@pytest.fixture(scope="module")
def run(finished_run):
    return br.load(finished_run)


def test_a_run_has_its_path_configuration_and_stages(run, finished_run):
    assert run.path == finished_run
    assert [task.name for task in run.config.tasks] == ["cartpole-a", "cartpole-b"]
    assert run.stages == [1, 2]
    assert br.load(run).path == run.path  # a run stands for its path
    assert repr(run) == f"<Run '{finished_run}'>"


def test_scores_are_typed_rows(run):
    scores = run.scores
    assert len(scores) == len((run.path / "scores.csv").read_text().splitlines()) - 1
    assert {row.task for row in scores} == {"cartpole-a", "cartpole-b"}
    assert isinstance(scores[0].score, float)
    assert len(scores[:3]) == 3
    assert "games: cartpole-a, cartpole-b" in repr(scores)


def test_scores_become_a_data_frame(run):
    pandas = pytest.importorskip("pandas")
    frame, scores = run.scores.to_pandas(), run.scores
    read = pandas.read_csv(run.path / "scores.csv", dtype={"truncated": bool})
    pandas.testing.assert_frame_equal(frame, read, check_dtype=False)
    assert frame["return"].tolist() == [row.score for row in scores]


def test_without_pandas_the_message_says_what_to_do(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(br.UserError, match="needs pandas, which is not installed: pip install pandas"):
        run.scores.to_pandas()


@pytest.mark.parametrize("normalised", [True, False])
def test_metrics_are_those_of_the_report(run, normalised):
    read = load_scores(run.path)
    matrix = read.after_normalised if normalised else read.after
    found = run.metrics(normalised=normalised)
    assert found.acc == pytest.approx(metrics.average_performance(matrix))
    assert found.worst_task == pytest.approx(matrix[-1].min())
    assert found.bwt == pytest.approx(matrix[1, 0] - matrix[0, 0])
    assert found.forgetting == {"cartpole-a": pytest.approx(matrix[0, 0] - matrix[1, 0])}
    assert found.worst_bwt == pytest.approx(found.bwt)
    assert found.mean_forgetting == pytest.approx(-found.bwt)
    assert found.accumulated == pytest.approx(matrix[-1].sum())


def test_metrics_of_an_unfinished_run_are_undefined(run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run.path, copy)
    lines = (copy / "scores.csv").read_text().splitlines(keepends=True)
    (copy / "scores.csv").write_text("".join(line for line in lines if ",2,after," not in line))
    assert math.isnan(br.load(copy).metrics().acc)
    (copy / "scores.csv").write_text(lines[0] + lines[1].replace("cartpole-a", "pong"))
    with pytest.raises(br.UserError, match=r"task 'pong' is not one of config.toml's"):
        br.load(copy).metrics()


@pytest.mark.parametrize(("stage", "game"), [(1, "cartpole-a"), (2, "cartpole-a"), (None, None)])
def test_an_agent_plays_the_episodes_of_the_score_table(run, stage, game):
    agent = run.agent(stage=stage, game=game)
    rows = [r for r in run.scores if (r.stage, r.phase, r.task) == (agent.stage, "after", agent.game)]
    for row in rows[:2]:
        env = agent.make_env(seed=row.seed)
        observation, total, done = env.reset(), 0.0, [False]
        while not done[0]:
            actions, state = agent.predict(observation)
            assert state is None
            observation, reward, done, _ = env.step(actions)
            total += reward[0]
        env.close()
        assert total == row.score


def test_an_agent_predicts_for_one_and_for_several_observations(run):
    agent = run.agent(stage=1)
    batch = np.random.default_rng(0).normal(size=(5, 4))
    actions, _ = agent.predict(batch)
    assert [int(agent.predict(one.tolist())[0]) for one in batch] == actions.tolist()
    sampled = {int(agent.predict(batch[0], deterministic=False)[0]) for _ in range(50)}
    assert sampled == {0, 1}


def test_evaluate_policy_accepts_an_agent(run):
    agent = run.agent()
    mean, _ = evaluate_policy(agent, agent.make_env(2), n_eval_episodes=2, warn=False)
    assert mean > 5


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda run: br.load("nowhere"), "folder 'nowhere' does not exist"),
        (lambda run: br.load(3), "path = 3: expected a path"),
        (lambda run: br.load(run.path.parent), "is not a run folder"),
        (lambda run: run.agent(stage=3), "stage 3 has no checkpoint"),
        (lambda run: run.agent(stage="1"), "stage = '1': expected a whole number"),
        (
            lambda run: run.agent(stage=1, game="cartpole-b"),
            "stage 1 has not learned cartpole-b: expected one of cartpole-a",
        ),
        (lambda run: run.agent(game="pong"), "this run never saw 'pong'"),
        (lambda run: run.agent(game=1), "game = 1: expected the name of a game"),
        (lambda run: run.agent().predict([1.0, 2.0]), r"observation of float64 \(2,\): expected float32 \(4,\)"),
        (lambda run: run.agent().predict("left"), "expected float32"),
        (lambda run: run.agent().predict([math.nan] * 4), "gives values that are not finite"),
        (lambda run: run.agent().make_env(0), "n_envs = 0: expected a whole number from 1"),
        (lambda run: run.metrics(normalised="yes"), "normalised = 'yes': expected True or False"),
        (lambda run: br.evaluate(run, games="cartpole-a"), "games = 'cartpole-a': expected a list of names"),
        (lambda run: br.evaluate(run, games=["cartpole-c"]), "this run never saw 'cartpole-c'"),
        (
            lambda run: br.evaluate(run, stages=1),
            r"stages = 1: expected a list of numbers counted from 1, such as \[1, 2\]",
        ),
        (lambda run: br.evaluate(run, episodes=0), "episodes = 0: expected a whole number from 1"),
        (lambda run: br.evaluate(run, actions="gready"), "actions = 'gready': did you mean greedy"),
        (lambda run: br.evaluate(["a", "b"]), r"run = \['a', 'b'\]: expected a path \(give several runs to report"),
        (lambda run: br.report([]), r"runs = \[\]: expected at least one run folder"),
        (lambda run: br.report([run, 3]), "runs = 3: expected a path"),
        (lambda run: br.report(run, normalize="recipes"), "normalize = 'recipes': did you mean recipe"),
        (lambda run: br.report(run, title=3), "title = 3: expected text"),
        (lambda run: br.render(run, seconds="long"), "seconds = 'long': expected a number"),
        (lambda run: br.render(run, episodes=33), "episodes = 33: expected a whole number from 1 to 32"),
        (lambda run: br.render(run, file_format="avi"), "avi"),
        (lambda run: br.render(run, run, stages=[1]), "a comparison shows the last stage of both"),
    ],
)
def test_wrong_arguments_are_one_message(run, ask, message):
    with pytest.raises(br.UserError, match=message) as caught:
        ask(run)
    assert "\n" not in str(caught.value)


def test_evaluate_returns_the_scores_it_stores(run, tmp_path):
    shutil.copytree(run.path, tmp_path / "run")
    copy = br.load(tmp_path / "run")
    scores = br.evaluate(copy, games=["cartpole-b"], episodes=2, seed=77)
    assert [(row.stage, row.seed) for row in scores] == [(2, 77), (2, 78)]
    assert "mean raw return" in scores.summary
    assert set(scores) <= set(copy.scores)


def test_render_returns_the_files(run, tmp_path):
    (path,) = br.render(run, stages=[1], seconds=0.2, out=tmp_path / "films")
    assert path.stat().st_size > 0


def test_report_writes_the_page(run, tmp_path):
    written = br.report([run], out=tmp_path / "report", title="Two poles")
    assert "Two poles" in written.page.read_text(encoding="utf-8")
    assert written.problems == ()


def test_workers_do_not_run_the_script_that_started_them(run, tmp_path):
    shutil.copytree(run.path, tmp_path / "run")
    lines = ["import blip_rl as br", "print('begun')", "print(len(br.evaluate('run', episodes=1, workers=2)))"]
    (tmp_path / "script.py").write_text("\n".join(lines))
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "begun\n3\n"
