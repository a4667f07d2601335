"""``blip-rl train --dry-run``: checks a run as training does, describes it, and writes nothing."""

import json
import re
import shutil

import pytest
import torch
from click.testing import CliRunner
from gymnasium.spaces import Box, Discrete

from blip_rl.cli import cli
from blip_rl.learner.policy import ContinualPolicy
from blip_rl.learner.separate_trunk import build_method
from blip_rl.run.dry_run import dry_run_text
from blip_rl.run.resources import estimate_resources
from blip_rl.storage.validation import meta_policy
from tests.small_runs import small_config


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("agent", ["blip", "packnet", "multitask", "blip-distil"])
def test_a_dry_run_describes_the_run_and_writes_nothing(agent, elsewhere):
    text = dry_run_text(small_config(agent, steps="20k"), threads=1)
    lines = {line.partition(" ")[0]: line for line in text.splitlines()}
    assert f"{agent} learns cartpole-a, cartpole-b: 40,192 steps (each rounded up to whole rollouts of 128)" in text
    assert lines["2"].split() == ["2", "cartpole-b", "CartPole-v1", "20,096", "steps"]
    # Trunk: (4 + 1) × 16 + (16 + 1) × 16; head: 2 actions and 1 value of 16 features, and the modulation of 2 layers.
    assert "352 parameters in the trunk, 115 in the head of cartpole-b" in lines["network"]
    assert re.search(r"at least [\d.]+ [MG]B, without activations \(this machine: [\d.]+ [MGT]B\)", lines["memory"])
    assert re.search(r"up to [\d.]+ [kM]B during the run, [\d.]+ [kM]B when it has finished", lines["disk"])
    assert "unknown: no similar run below 'runs'" in lines["time"]
    assert not list(elsewhere.iterdir())


def test_tasks_that_come_back_are_listed_at_each_visit():
    text = dry_run_text(small_config(games="cartpole-a,cartpole-b,cartpole-a"), threads=1)
    assert re.findall(r"^(\d)  (cartpole-.)", text, re.MULTILINE) == [
        ("1", "cartpole-a"), ("2", "cartpole-b"), ("3", "cartpole-a"),
    ]  # fmt: skip


def test_time_is_estimated_from_the_speed_of_a_similar_run(finished_run, elsewhere):
    shutil.copytree(finished_run, elsewhere / "runs" / "earlier")
    environment = json.loads((elsewhere / "runs" / "earlier" / "environment.json").read_text())
    speed = (elsewhere / "runs" / "earlier" / "speed.csv").read_text().splitlines()
    speed[-1] = re.sub(r",[\d.e+]+,([\d.e+]+)$", r",500.0,\1", speed[-1])
    (elsewhere / "runs" / "earlier" / "speed.csv").write_text("\n".join(speed) + "\n")
    threads = environment["threads"]
    config = small_config(steps="1M")
    assert "about 67 min of training, plus evaluations, at 500 steps/s as in 'runs/earlier'" in dry_run_text(
        config, threads=threads
    )
    for other, count in [(small_config("finetune"), threads), (small_config(overrides=["ppo.epochs=1"]), threads)]:
        assert "unknown: no similar run" in dry_run_text(other, threads=count)
    assert "unknown: no similar run" in dry_run_text(config, threads=threads + 1)
    (elsewhere / "runs" / "earlier" / "speed.csv").write_text("damaged\n")
    assert "unknown: no similar run" in dry_run_text(config, threads=threads)


@pytest.mark.parametrize("agent", ["blip", "clear", "gpm"])
def test_the_estimate_needs_no_weights(agent):
    config, observations, actions = small_config(agent), Box(-1, 1, (4,)), Discrete(2)
    tasks = [(task.name, actions) for task in config.tasks]
    policy = ContinualPolicy(observations, actions, lambda _: 0.0, trunk=config.agent.trunk)
    for name, _ in tasks:
        policy.add_task(name, actions)
    policy.use_task(tasks[-1][0])
    outline = meta_policy(observations, tasks, config)
    estimates = [estimate_resources(config, one, build_method(config.agent), 0) for one in (policy, outline)]
    assert estimates[0] == estimates[1]
    assert estimates[0].disk > estimates[0].final_disk > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--out there", "'there' exists"),
        ("--games kungfoo", "did you mean kungfu?"),
        ("--device cuda:9", "device 'cuda:9' is not available"),
        ("--set ppo.environments=4096 --set ppo.rollout_steps=1000000 --games pong --steps 10G", "of memory"),
        ("--resume there", "--dry-run with --resume"),
    ],
)
def test_a_dry_run_refuses_what_training_refuses(arguments, message, elsewhere):
    if "cuda" in arguments and torch.cuda.device_count() > 9:
        pytest.skip("this machine has ten GPUs")
    (elsewhere / "there").write_text("mine")
    result = CliRunner().invoke(cli, ["train", "--dry-run", *arguments.split()])
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr
    assert [path.name for path in elsewhere.iterdir()] == ["there"]
