"""The reference of all settings, and ``blip-rl show`` and ``copy``, which print it for one recipe."""

import re
import tomllib

import pytest
from click.testing import CliRunner

from blip_rl.cli import cli
from blip_rl.methods import method_names
from blip_rl.recipes import dump_run_config, resolve
from blip_rl.recipes.explain import explain
from blip_rl.recipes.files import recipe_names
from blip_rl.recipes.settings import agent_settings, method_settings, sequence_settings, task_settings, toml
from blip_rl.task_schedule import MinatarConfig
from scripts import write_settings

AGENTS, SEQUENCES = recipe_names("agents"), recipe_names("envs")


def invoke(*arguments):
    return CliRunner().invoke(cli, list(map(str, arguments)))


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_every_setting_has_a_meaning_and_allowed_values():
    methods = [info for name in method_names() for info in method_settings(name)]
    for info in [*agent_settings(), *sequence_settings(), *task_settings(), *methods]:
        assert info.meaning.endswith("."), info
        assert info.allowed, info
        assert ":`" not in info.meaning, info


@pytest.mark.parametrize(
    ("key", "allowed"),
    [
        ("ppo.environments", "whole number from 1 to 4,096"),
        ("ppo.clip_range_value", "number > 0 or none"),
        ("trunk.vector.activation", '"relu", "tanh", "elu", "silu"'),
        ("trunk.vector.hidden", "list, each whole number from 1 to 65,536"),
        ("evaluation.seed", "whole number from 0 to 536,870,911"),
        ("compute.environment_groups", '1, 2, "auto"'),
        ("method.threshold", "number > 0 and < 1"),
    ],
)
def test_allowed_values_are_those_of_the_type(key, allowed):
    known = {info.key: info for info in [*agent_settings(), *sequence_settings(), *method_settings("gpm")]}
    assert known[key].allowed == allowed


def test_the_page_of_settings_is_up_to_date():
    assert write_settings.PAGE.read_text(encoding="utf-8") == write_settings.page(), "run scripts/write_settings.py"


# show


@pytest.mark.parametrize("agent", AGENTS)
def test_show_has_the_values_of_the_resolved_recipe(agent):
    config = resolve("cartpole4", agent)
    expected = config.model_dump(mode="json")
    for setting in explain(agent, games="cartpole4").settings:
        section, _, key = setting.info.key.rpartition(".")
        if section == "tasks[]":
            assert setting.value == ", ".join(toml(task[key]) for task in expected["tasks"])
            continue
        if section == "minatar":  # the run has them in its tasks, if they are MinAtar's
            assert setting.value == toml(MinatarConfig().model_dump()[key])
            continue
        inside = expected if section in {"atari", "evaluation", "checkpoint", "compute"} else expected["agent"]
        of_the_run = {"order", "cycles", "normalize_observations", "normalize_rewards"}
        inside = expected if setting.info.key in of_the_run else inside
        for step in setting.info.key.split("."):
            inside = inside.get(step)
        assert setting.value == toml(inside), setting.info.key


def test_show_names_the_source_of_each_setting():
    overrides = ["ppo.epochs=3", "ppo.clip_range_value=none", "evaluation.episodes=2"]
    sources = {s.info.key: s.source for s in explain("blip", games="cartpole4,pong", overrides=overrides).settings}
    expected = {
        "ppo.adam_epsilon": "base/ppo.toml",
        "method.total_bits": "agents/blip.toml",
        "method.first_task_bits": "default",
        "ppo.gae_lambda": "envs/cartpole4.toml",
        "ppo.epochs": "--set ppo.epochs=3",
        "ppo.clip_range_value": "--set ppo.clip_range_value=none",
        "evaluation.episodes": "--set evaluation.episodes=2",
        "evaluation.max_episode_steps": "envs/cartpole4.toml",
        "atari.frame_size": "default",
        "tasks[].steps": "envs/cartpole4.toml",
    }
    for key, source in expected.items():
        assert sources[key].endswith(source), (key, sources[key])
    pong = {s.info.key: s.source for s in explain("blip", games="pong").settings}
    assert (pong["tasks[].game"], pong["tasks[].human_score"]) == ("--games", "published scores")


def test_show_of_another_method_does_not_name_the_file_of_the_first():
    sources = {s.info.key: s.source for s in explain("blip", overrides=["method.name=ewc"]).settings}
    assert sources["method.fisher_samples"] == "default"
    assert sources["method.name"] == "--set method.name=ewc"


def test_show_of_a_run_has_the_values_of_its_recipe(tmp_path):
    (tmp_path / "run").mkdir()
    config = resolve("cartpole-a", "ewc", seed=3, overrides=["ppo.epochs=2"])
    (tmp_path / "run" / "config.toml").write_text(dump_run_config(config), encoding="utf-8")
    output = invoke("show", "run", "seed", "ppo.epochs", "method.strength", "tasks.steps").output
    for line in ("seed = 3", "ppo.epochs = 2", "method.strength = 80.6", "tasks[].steps = 120000"):
        assert f"\n{line}\n" in output
    assert output.count("from: run/config.toml") == 4


def test_show_of_an_untrusted_run_prints_no_control_characters(tmp_path):
    (tmp_path / "line\nbreak").mkdir()
    text = dump_run_config(resolve("cartpole-a", "finetune"))
    text = text.replace('title = "CartPole, mix 1"', 'title = "\\u009b2J\\u202e"')
    (tmp_path / "line\nbreak" / "config.toml").write_text(text, encoding="utf-8")
    result = invoke("show", "line\nbreak", "tasks.title")
    assert result.exit_code == 0, result.output
    assert all(letter.isprintable() or letter == "\n" for letter in result.output)
    assert "9b2J" in result.output


def test_show_prints_meaning_default_allowed_values_and_source():
    output = invoke("show", "blip", "ppo.value_loss_scale").output
    assert output.startswith("agent blip, ")
    assert "ppo.value_loss_scale = 1.0\n    Factor of the mean squared value error" in output
    assert output.endswith("    default 1.0; allowed: number > 0; from: default\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("blop", "unknown agent, sequence or run 'blop': did you mean blip?"),
        ("nothing-like-it", "expected one of blip, "),
        ("blip ppo.epoch", "unknown setting 'ppo.epoch': did you mean ppo.epochs?"),
        ("blip pq", "expected a key or one of distil, method, ppo"),
        ("blip --set ppo.epochs=0", "--set ppo.epochs=0: input should be greater than or equal to 1"),
        ("blip --set atari.frame_skip=2", "add --games LIST"),
        ("blip --games pnog", "did you mean pong?"),
        ("cartpole4 --set ppo.epochs=2", "show an agent with --games cartpole4"),
        ("cartpole4 --games pong", "--games with the sequence 'cartpole4'"),
        ("missing.toml", "No such file"),
    ],
)
def test_show_refuses_bad_input(arguments, message):
    result = invoke("show", *arguments.split())
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr


# copy


@pytest.mark.parametrize("name", [*AGENTS, *SEQUENCES])
@pytest.mark.parametrize("uncommented", [False, True])
def test_a_copy_resolves_to_the_same_settings(name, uncommented, tmp_path):
    result = invoke("copy", name, "mine.toml")
    assert result.exit_code == 0, result.output
    text = (tmp_path / "mine.toml").read_text(encoding="utf-8")
    assert tomllib.loads(text)["description"].startswith(f"Copy of {name}: ")
    if uncommented:  # with the values that apply anyway
        changed = re.sub(r"^# (?=\w+ = )", "", text, flags=re.MULTILINE)
        assert changed != text
        (tmp_path / "mine.toml").write_text(changed, encoding="utf-8")
    if name in AGENTS:
        assert "--agent mine.toml" in result.stdout
        same, mine = resolve("cartpole-a", name), resolve("cartpole-a", "mine.toml")
        assert mine.agent.model_copy(update={"description": same.agent.description}) == same.agent
    else:
        same, mine = resolve(name, "blip"), resolve("mine.toml", "blip")
        assert mine.model_copy(update={"sequence_name": name}) == same


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("blop mine.toml", "unknown agent or sequence 'blop': did you mean blip?"),
        ("blip there.toml", "'there.toml' exists: choose another name"),
        ("blip mine", "'mine': expected a name that ends in .toml"),
        ("blip nowhere/mine.toml", "'nowhere' is not a folder that can be written"),
    ],
)
def test_copy_refuses_bad_input_and_overwrites_nothing(arguments, message, tmp_path):
    (tmp_path / "there.toml").write_text("mine")
    result = invoke("copy", *arguments.split())
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("there.toml", "mine")]


def test_show_has_settings_of_minatar_with_the_tasks_that_have_their_own(sequence_file):
    task = '[[tasks]]\nname = "{}"\ngame = "MinAtar/Breakout-v0"\n'
    shown = {s.info.key: s.value for s in explain(sequence_file(task.format("a"))).settings}
    assert shown["minatar.sticky_action_probability"] == "0.1"
    assert "tasks[].minatar.sticky_action_probability" not in shown
    own = task.format("a") + "minatar.sticky_action_probability = 0.3\n" + task.format("b")
    shown = {s.info.key: s.value for s in explain(sequence_file(own)).settings}
    assert shown["tasks[].minatar.sticky_action_probability"] == "0.3, none"


def test_shown_tables_are_valid_toml():
    scores = {s.info.key: s.value for s in explain("atari6").settings}["tasks[].other_scores"]
    assert tomllib.loads(f"x = {toml({'two words': 1.5, 'bare': {}})}") == {"x": {"two words": 1.5, "bare": {}}}
    assert "28128" in scores
