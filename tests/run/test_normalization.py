"""Runs with normalised observations and rewards: interrupted, evaluated, with visits, one head or several."""

import os
import signal

import pytest
from click.testing import CliRunner
from safetensors.torch import load_file

from blip_rl.cli import cli
from blip_rl.errors import InterruptedRunError
from blip_rl.evaluation.rescore import evaluate_run
from blip_rl.learner.ppo import ContinualPPO
from blip_rl.recipes import RecipeError, load_run_config, resolve
from blip_rl.recipes.explain import explain
from blip_rl.run.train import train
from blip_rl.storage.run_folder import RunFolder
from tests.run.broken_off import assert_equal, killed_at, resume_run, settings, small_run

ON = ("normalize_observations=true", "normalize_rewards=true")
SHARED = ("trunk.heads=shared", "trunk.task_modulation=false")
STEPS = 256
COUNT = STEPS + 1e-4

pytestmark = pytest.mark.usefixtures("_blank_heatmaps")


def normalized(agent, *more, **options):
    return small_run(agent, steps=str(STEPS), overrides=(*settings(agent), *ON, *more), **options)


def trained(out, agent, *more, **options):
    return train(normalized(agent, *more, **options), out=out, threads=1, quiet=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    made = {}

    def run(agent):
        if agent not in made:
            made[agent] = trained(tmp_path_factory.mktemp("normalized") / "run", agent)
        return made[agent]

    return run


def weights(run, stage):
    return load_file(RunFolder(run).stage_path(stage) / "policy.safetensors")


def statistics(run, stage):
    return {name: tensor for name, tensor in weights(run, stage).items() if ".normalizer." in name}


def counts(run, stage, kind="observations"):
    found = statistics(run, stage)
    return [found[name].item() for name in sorted(found) if name.endswith(f"{kind}.count")]


@pytest.mark.parametrize("agent", ["blip", "blip-distil", "multitask"])
def test_a_killed_run_equals_an_uninterrupted_run(agent, whole, tmp_path):
    with killed_at(ContinualPPO, "train", 3, after=True):
        trained(tmp_path / "run", agent)
    assert_equal(resume_run(tmp_path / "run"), whole(agent))


def test_a_run_stopped_in_the_middle_of_an_episode_equals_an_uninterrupted_run(tmp_path, monkeypatch):
    """The snapshot holds actions to replay, from which the discounted returns are recomputed."""
    rarely = "checkpoint.every_steps=10_000"
    whole = trained(tmp_path / "whole", "finetune", rarely)
    update, calls = ContinualPPO.train, []

    def stopping(self):
        update(self)
        calls.append(None)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(ContinualPPO, "train", stopping)
    with pytest.raises(InterruptedRunError):
        trained(tmp_path / "run", "finetune", rarely)
    (*_, newest) = RunFolder(tmp_path / "run").snapshots()
    assert len(load_file(newest / "games.safetensors")["actions.0"])
    assert_equal(resume_run(tmp_path / "run"), whole)


def test_statistics_of_a_finished_task_stay_and_those_of_a_task_that_comes_back_continue(tmp_path):
    run = trained(tmp_path / "run", "finetune", games="cartpole-a,cartpole-b,cartpole-a")
    assert [counts(run, stage) for stage in (1, 2, 3)] == [
        pytest.approx(expected) for expected in ([COUNT], [COUNT, COUNT], [COUNT + STEPS, COUNT])
    ]
    assert counts(run, 3, "returns") == pytest.approx([COUNT + STEPS, COUNT])
    first, second = statistics(run, 1), statistics(run, 2)
    assert first
    assert all(tensor.equal(second[name]) for name, tensor in first.items())


def test_tasks_with_a_shared_head_have_one_set_of_statistics(tmp_path):
    run = trained(tmp_path / "run", "finetune", *SHARED)
    assert [counts(run, stage) for stage in (1, 2)] == [pytest.approx([COUNT]), pytest.approx([COUNT + STEPS])]


def test_evaluation_does_not_change_statistics(whole, tmp_path):
    other = trained(tmp_path / "run", "blip", "evaluation.episodes=3", "evaluation.every_steps=128")
    evaluate_run(other, episodes=1, workers=1)
    for stage in (1, 2):
        mine, theirs = statistics(whole("blip"), stage), statistics(other, stage)
        assert len(mine) == 6 * stage
        assert all(tensor.equal(theirs[name]) for name, tensor in mine.items())


def test_scores_are_sums_of_raw_rewards(whole):
    """CartPole's are lengths of episodes; normalised rewards would not sum to whole numbers."""
    scores = [row.score for row in RunFolder.existing(whole("blip")).read_scores()]
    assert scores
    assert all(score == int(score) and score >= 8 for score in scores)


# --- recipes


def test_normalised_images_are_refused_before_anything_is_written(tmp_path):
    run = tmp_path / "run"
    options = ["--set", "normalize_observations=true", "--out", str(run)]
    result = CliRunner().invoke(cli, ["train", "--games", "pong", "--agent", "finetune", *options])
    assert result.exit_code == 2
    assert "normalize_observations = true, but observations are uint8 (4, 84, 84): images" in result.stderr
    assert "Traceback" not in result.output
    assert not run.exists()


def test_a_sequence_sets_both_and_an_override_replaces_them(tmp_path):
    sequence = tmp_path / "mine.toml"
    task = '[[tasks]]\nname = "a"\ngame = "CartPole-v1"\n'
    sequence.write_text(f'description = "one"\nnormalize_observations = true\nnormalize_rewards = true\n{task}')
    config = resolve(str(sequence), "finetune", overrides=["normalize_rewards=false"])
    assert (config.normalize_observations, config.normalize_rewards) == (True, False)
    sources = {s.info.key: (s.value, s.source) for s in explain(str(sequence)).settings}
    assert sources["normalize_rewards"][0] == "true"
    assert "mine.toml" in sources["normalize_rewards"][1]


@pytest.mark.parametrize("override", ["normalize_rewards=2", "normalize_rewards.x=true"])
def test_values_that_are_not_booleans_are_refused(override):
    with pytest.raises(RecipeError, match=override):
        resolve("cartpole-a", "finetune", overrides=[override])


def test_the_settings_of_a_run_are_saved(whole):
    config = load_run_config(whole("blip"))
    assert config.normalize_observations
    assert config.normalize_rewards
    shown = [setting.info.key for setting in explain(str(whole("blip"))).settings]
    assert shown.count("normalize_rewards") == 1
