"""The README's code and commands do what it says."""

import re
from pathlib import Path

import click
import pytest
import torch
from stable_baselines3 import PPO

from blip_rl.cli import cli
from blip_rl.recipes.files import recipe_names
from blip_rl.task_schedule import TaskConfig
from blip_rl.tasks.control import make_control_env

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def test_the_five_lines_protect_a_plain_ppo():
    (code,) = re.findall(r"## Protect a .*?```python\n(.*?)```", README, flags=re.DOTALL)
    first_env, second_env = (make_control_env("CartPole-v1", 4, 0, mix) for mix in (1, 2))
    model = PPO("MlpPolicy", first_env, n_steps=128, seed=0, device="cpu")
    names = {"model": model, "first_env": first_env, "second_env": second_env, "total_timesteps": 2048}
    exec(code, names)
    blip = names["blip"]
    assert blip.tasks_seen == 2
    assert blip.mean_frozen_bits() >= 2.9
    assert not model.policy.optimizer._optimizer_step_post_hooks
    weights = dict(model.policy.named_parameters())
    for name, (low, high) in blip.intervals().items():
        layer = name.replace("policy_net", "mlp_extractor.policy_net")
        assert torch.all((low <= weights[layer]) & (weights[layer] <= high))


@pytest.mark.parametrize("command", ["make demo", "make test"])
def test_the_two_commands_are_there(command):
    assert command in README
    assert re.search(
        rf"^{command.split()[1]}:", (Path(__file__).parents[2] / "Makefile").read_text(), flags=re.MULTILINE
    )


def test_every_command_is_one_with_its_options_and_arguments():
    commands = re.findall(r"^blip-rl (\w+)(.*?)(?:#.*)?$", README, flags=re.MULTILINE)
    assert {verb for verb, _ in commands} == set(cli.commands)
    for verb, rest in commands:
        words = ["." if word.startswith("runs/") else word for word in rest.split()]  # a folder that is there
        # With the group's own settings: a command keeps the first help option that it is asked for.
        group = click.Context(cli, info_name="blip-rl", **cli.context_settings)
        cli.commands[verb].make_context(verb, words, parent=group)


def test_every_shipped_agent_is_in_the_table():
    (table,) = re.findall(r"^\| agent \|.*?\n\n", README, flags=re.MULTILINE | re.DOTALL)
    first_column = "".join(row.split("|")[1] for row in table.strip().splitlines())
    assert sorted(re.findall(r"`([a-z0-9-]+)`", first_column)) == sorted(recipe_names("agents"))


def test_every_train_command_resolves():
    from blip_rl.recipes import resolve

    commands = re.findall(r"^blip-rl train(?! --resume)(.*?)(?:#.*)?$", README, flags=re.MULTILINE)
    assert len(commands) >= 5
    for command in commands:
        given = cli.commands["train"].make_context("train", command.split()).params
        config = resolve(
            given["games"],
            given["agent"],
            steps=given["steps"],
            cycles=given["cycles"],
            seed=given["seed"],
            overrides=given["overrides"],
        )
        assert all(isinstance(task, TaskConfig) for task in config.tasks)
