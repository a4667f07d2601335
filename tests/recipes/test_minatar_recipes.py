"""MinAtar in recipes: names, settings of the sequence, of a task and of --set, and what a run writes down."""

import pytest

from blip_rl.recipes import dump_run_config, load_run_config, resolve
from blip_rl.task_schedule import MinatarConfig

ORDER = ["breakout", "asterix", "freeway", "seaquest", "spaceinvaders"]
TASK = '[[tasks]]\nname = "breakout"\ngame = "MinAtar/Breakout-v0"\n'


def test_both_orders_have_the_same_games_and_settings():
    forward, backward = resolve("minatar5", "blip"), resolve("minatar5-reversed", "blip")
    assert [task.name for task in forward.tasks] == [f"minatar-{name}" for name in ORDER]
    assert backward.tasks == forward.tasks[::-1]
    assert (backward.agent, backward.evaluation) == (forward.agent, forward.evaluation)
    assert forward.agent.trunk.image.conv == ((16, 3, 1),)
    assert forward.agent.trunk.image.hidden == (128,)
    assert all(task.game.endswith("-v0") for task in forward.tasks)


@pytest.mark.parametrize(
    "spelling",
    ["minatar-breakout", "minatar:breakout", "MinAtar Breakout", "MinAtar/Breakout-v0", "minatar/breakout-V0"],
)
def test_every_spelling_is_the_task_of_the_sequence(spelling):
    assert resolve(spelling, "blip") == resolve("minatar-breakout", "blip")
    assert resolve(spelling, "blip").tasks == resolve("minatar5", "blip").tasks[:1]


def test_names_of_atari_games_still_mean_atari():
    assert [resolve(name, "blip").tasks[0].game for name in ("breakout", "Seaquest", "spaceinvaders")] == [
        "breakout",
        "seaquest",
        "space_invaders",
    ]


def test_an_id_with_minimal_actions_has_the_sequences_trunk_but_not_its_scores():
    config = resolve("MinAtar/Seaquest-v1", "blip")
    (task,), sequence = config.tasks, resolve("minatar5", "blip")
    assert (task.game, task.steps) == ("MinAtar/Seaquest-v1", sequence.tasks[0].steps)
    assert (task.random_score, task.reference_score) == (None, None)
    assert config.agent == sequence.agent


def test_settings_come_from_the_task_before_set_before_the_sequence(sequence_file):
    own = "[tasks.minatar]\nsticky_action_probability = 0.3\n"
    other = TASK.replace('"breakout"', '"other"')
    path = sequence_file(f"[minatar]\nsticky_action_probability = 0.2\n{TASK}{own}{other}")
    tasks = resolve(path, "finetune").tasks
    assert [task.minatar.sticky_action_probability for task in tasks] == [0.3, 0.2]
    tasks = resolve(path, "finetune", overrides=["minatar.sticky_action_probability=0"]).tasks
    assert [task.minatar.sticky_action_probability for task in tasks] == [0.3, 0.0]
    assert resolve("minatar-breakout", "finetune").tasks[0].minatar == MinatarConfig(
        sticky_action_probability=0.1, difficulty_ramping=True
    )


def test_a_run_writes_the_settings_down_with_its_tasks(tmp_path):
    config = resolve("minatar-freeway", "blip", overrides=["minatar.difficulty_ramping=false"])
    (tmp_path / "config.toml").write_text(dump_run_config(config), encoding="utf-8")
    assert "[tasks.minatar]\n" in (tmp_path / "config.toml").read_text(encoding="utf-8")
    assert load_run_config(tmp_path) == config
    assert not load_run_config(tmp_path).tasks[0].minatar.difficulty_ramping
    assert "minatar" not in dump_run_config(resolve("pong", "blip"))


def test_mistakes_name_the_value_and_the_rule(sequence_file, problems):
    (line,) = problems("minatar-breakout", "blip", overrides=["minatar.sticky_action_probability=2"])
    assert "--set minatar.sticky_action_probability=2" in line
    (line,) = problems(sequence_file(TASK + "[tasks.minatar]\nfoo = 1\n"), "blip")
    assert "unknown key" in line
    assert "(allowed: sticky_action_probability, difficulty_ramping)" in line
    (line,) = problems("minatar-breakout", "blip", overrides=["minatar.sticky=0.1"])
    assert "did you mean" in line or "minatar.sticky" in line
    wrong = TASK.replace("MinAtar/Breakout-v0", "pong") + "[tasks.minatar]\ndifficulty_ramping = false\n"
    (line,) = problems(sequence_file(wrong), "blip")
    assert "tasks[0].game = 'pong': has settings minatar, but is not a game of MinAtar (remove them)" in line
    (line,) = problems(sequence_file(TASK.replace("Breakout", "Brakout")), "blip")
    assert "tasks[0].game = 'MinAtar/Brakout-v0': unknown game" in line
    assert "did you mean MinAtar/Breakout-v0?" in line
