import re

import pytest

from blip_rl.errors import UserError
from blip_rl.recipes import files as recipe_files
from blip_rl.recipes import list_games, list_sequences, resolve, split_names
from blip_rl.reference_scores import published_scores


def test_games_of_one_sequence_use_its_sections():
    config = resolve("cartpole-b,cartpole-a", "blip")
    assert [task.name for task in config.tasks] == ["cartpole-b", "cartpole-a"]
    assert config.evaluation == resolve("cartpole4", "blip").evaluation
    assert config.sequence_name == "cartpole-b+cartpole-a"


def test_sections_come_from_the_first_sequence_of_a_mixed_list():
    assert resolve("pong,cartpole-a,kungfu", "blip").evaluation == resolve("cartpole4", "blip").evaluation
    assert resolve("kungfu,cartpole-a", "blip").evaluation == resolve("atari6", "blip").evaluation


def test_roms_and_gymnasium_ids_need_no_recipe():
    pong, cartpole = resolve("pong, CartPole-v1", "blip").tasks
    assert (pong.name, pong.game, pong.steps, pong.title) == ("pong", "pong", 10_000_000, "pong")
    assert (cartpole.name, cartpole.game, cartpole.observation_mix_seed) == ("CartPole-v1", "CartPole-v1", None)


@pytest.mark.parametrize(
    "spelling",
    [
        "kung_fu_master",
        "Kung-Fu Master",
        "KungFuMaster",
        "ALE/KungFuMaster-v5",
        "KungFuMasterNoFrameskip-v4",
    ],
)
def test_every_spelling_of_a_game_resolves_to_the_same_run(spelling):
    assert resolve(spelling, "blip") == resolve("kungfu", "blip")


def test_sequences_are_found_in_any_spelling():
    assert resolve("Atari-6", "blip").tasks == resolve("atari6", "blip").tasks


def test_two_items_with_one_rom_under_two_names_are_refused(sequence_file, problems):
    path = sequence_file('[[tasks]]\nname = "ping"\ngame = "ALE/Pong-v5"')
    (line,) = problems(f"{path},pong", "blip")
    assert "game 'pong' is given as 'ping' and 'pong'" in line


def test_a_sequence_may_repeat_a_game_under_two_names(sequence_file):
    path = sequence_file('[[tasks]]\nname = "a"\ngame = "pong"\n[[tasks]]\nname = "b"\ngame = "Pong"')
    assert [(task.name, task.game) for task in resolve(path, "blip").tasks] == [("a", "pong"), ("b", "pong")]


# --- normalisers


def test_games_in_the_published_table_are_normalised_by_human_scores():
    pong, breakout = resolve("pong,ALE/Breakout-v5", "blip").tasks
    assert (pong.random_score, pong.reference_score, pong.reference_name) == (-20.7, 14.6, "human")
    assert (breakout.random_score, breakout.human_score, breakout.reference_score) == (1.7, 30.5, 30.5)


def test_games_outside_the_published_table_have_no_normalisers():
    (task,) = resolve("adventure", "blip").tasks
    assert (task.random_score, task.reference_score, task.reference_name) == (None, None, "")


def test_games_of_the_paper_are_normalised_by_ppo():
    for task in resolve("atari6", "blip").tasks:
        assert task.reference_name == "PPO on this game alone for 10M steps"
        assert published_scores()[task.game] == (task.random_score, task.human_score)
        assert task.reference_score not in (task.human_score, task.random_score)


def test_scores_in_a_sequence_replace_the_published_ones(sequence_file):
    text = '[[tasks]]\nname = "mine"\ngame = "pong"\nrandom_score = 1\nreference_score = 2'
    (own,) = resolve(sequence_file(text), "blip").tasks
    assert (own.random_score, own.reference_score, own.human_score, own.reference_name) == (1, 2, None, "")
    (bare,) = resolve(sequence_file('[[tasks]]\nname = "mine"\ngame = "Pong"'), "blip").tasks
    assert (bare.name, bare.game, bare.reference_score, bare.reference_name) == ("mine", "pong", 14.6, "human")


def test_a_reference_name_with_a_line_break_is_refused(sequence_file, problems):
    text = '[[tasks]]\nname = "a"\ngame = "pong"\nreference_name = "two\\nlines"'
    (line,) = problems(sequence_file(text), "blip")
    assert "reference_name" in line
    assert "none of them a control character" in line


# --- how long a scored game may last


@pytest.mark.parametrize(
    ("overrides", "cap"),
    [
        ([], 27_000),
        (["atari.frame_skip=2"], 54_000),
        (["atari.frame_skip=8"], 13_500),
        (["atari.frame_skip=7"], 15_429),
        (["atari.max_episode_frames=400"], 100),
        (["atari.frame_skip=2", "evaluation.max_episode_steps=100"], 100),
    ],
)
@pytest.mark.parametrize("games", ["atari6", "pong"])
def test_the_default_step_cap_of_an_episode_is_the_frame_limit_over_the_frame_skip(games, overrides, cap):
    assert resolve(games, "blip", overrides=overrides).evaluation.max_episode_steps == cap


def test_a_step_cap_in_a_sequence_is_kept():
    assert resolve("cartpole4", "blip", overrides=["atari.frame_skip=2"]).evaluation.max_episode_steps == 500


def test_a_sequence_file_can_be_mixed_with_names(sequence_file):
    path = sequence_file('[[tasks]]\nname = "ping"\ngame = "pong"\nsteps = "3k"\n[evaluation]\nepisodes = 3')
    config = resolve(f"{path},kungfu", "blip")
    assert [task.name for task in config.tasks] == ["ping", "kungfu"]
    assert config.evaluation.episodes == 3
    assert resolve(path, "blip").sequence_name == "mine"


def test_steps_apply_to_every_task():
    assert {task.steps for task in resolve("atari6", "blip", steps="20k").tasks} == {20_000}


@pytest.mark.parametrize(
    ("games", "parts"),
    [
        ("kungfoo", ["unknown game 'kungfoo'", "did you mean kungfu?", "blip-rl list games"]),
        ("atari7", ["unknown game 'atari7'", "did you mean atari"]),
        ("", ["--games ''", "separated by single commas", "kungfu,boxing"]),
        ("kungfu,,boxing", ["--games 'kungfu,,boxing'", "separated by single commas"]),
        ("kungfu,atari2", ["'kungfu' is given with different settings", "different names"]),
        ("missing.toml", ["missing.toml", "No such file"]),
    ],
)
def test_invalid_games_are_refused(games, parts, problems):
    (line,) = problems(games, "blip")
    assert all(part in line for part in parts), line


@pytest.mark.parametrize("games", ["pong,Pong", "pong,ALE/Pong-v5", "kungfu,Kung Fu Master", "cartpole-v1,CartPole-v1"])
def test_a_game_listed_again_is_visited_again(games):
    config = resolve(games, "blip")
    assert len(config.tasks) == 1
    assert config.visits == (0, 0)


def test_two_modes_of_a_game_are_two_tasks():
    config = resolve("freeway-0,freeway-3,freeway-0", "blip")
    assert [task.mode for task in config.tasks] == [0, 3]
    assert config.visits == (0, 1, 0)


def test_order_of_visits_follows_the_list():
    config = resolve("boxing,kungfu,boxing,krull", "blip")
    assert [task.name for task in config.tasks] == ["boxing", "kungfu", "krull"]
    assert config.order == ("boxing", "kungfu", "boxing", "krull")
    assert config.sequence_name == "boxing+kungfu+boxing+krull"


def test_cycles_repeat_the_order(sequence_file, problems):
    path = sequence_file('cycles = 2\n[[tasks]]\nname = "a"\ngame = "pong"\n[[tasks]]\nname = "b"\ngame = "boxing"')
    assert resolve(str(path), "blip").visits == (0, 1, 0, 1)
    assert resolve(str(path), "blip", cycles=3).stages == 6
    assert resolve(f"{path},krull", "blip").order == ("a", "b", "a", "b", "krull")
    for cycles in (0, -1, 251):
        (line,) = problems("kungfu", "blip", cycles=cycles)
        assert f"--cycles {cycles}" in line
    (line,) = problems("atari6", "blip", cycles=50)
    assert "6 visits × cycles = 50: expected at most 250 in all" in line


@pytest.mark.parametrize(
    ("order", "message"),
    [
        ('["a", "c"]', "order names 'c': expected the names of this recipe's tasks: a, b"),
        ('["a", "a"]', "order leaves out 'b': expected every task at least once"),
        ('["b", "a"]', "order visits the tasks first as b, a, but the recipe lists them as a, b"),
    ],
)
def test_an_order_that_does_not_fit_the_tasks_is_refused(order, message, sequence_file, problems):
    tasks = '[[tasks]]\nname = "a"\ngame = "pong"\n[[tasks]]\nname = "b"\ngame = "boxing"'
    (line,) = problems(str(sequence_file(f"order = {order}\n{tasks}")), "blip")
    assert message in line


def test_split_names():
    assert split_names(" a, b ") == ("a", "b")
    with pytest.raises(UserError, match="--only 'a,'"):
        split_names("a,", "--only")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ('[[tasks]]\nname = "a"\ngame = "pongg"', ["tasks[0].game = 'pongg'", "did you mean pong?"]),
        ('[[tasks]]\nname = "a"\ngame = "this:That-v0"', ["tasks[0].game", "is not trusted"]),
        ('[[tasks]]\nname = "a"', ["tasks[0].game: missing", "no default"]),
        (
            '[[tasks]]\nname = "a"\ngame = "pong"\nstep = 3',
            ["tasks[0].step = 3", "did you mean steps?", "allowed: name"],
        ),
        ('[[tasks]]\nname = "a"\ngame = "pong"\nsteps = "5x"', ["steps = '5x'", "whole number of steps", "500k"]),
        ('[[tasks]]\nname = "a b"\ngame = "pong"', ["name = 'a b'", "letters, digits"]),
        ('[[task]]\nname = "a"', ["tasks: missing", "no default"]),
        ("tasks = []", ["tasks = []", "at least 1 item"]),
        (
            '[agent.ppo]\nepoch = 3\n[[tasks]]\nname = "a"\ngame = "pong"',
            ["agent.ppo.epoch = 3", "did you mean epochs?"],
        ),
    ],
)
def test_invalid_sequence_files_are_refused(text, parts, sequence_file, problems):
    lines = problems(sequence_file(text), "blip")
    assert any(all(part in line for part in [*parts, "mine.toml"]) for line in lines), lines


def test_a_recipe_runs_no_code(sequence_file, tmp_path, monkeypatch, problems):
    marker = tmp_path / "ran"
    (tmp_path / "evil.py").write_text(f"open({str(marker)!r}, 'w')")
    monkeypatch.syspath_prepend(str(tmp_path))
    problems(sequence_file('[[tasks]]\nname = "a"\ngame = "evil:A-v0"'), "blip")
    assert not marker.exists()


def test_agent_section_of_a_sequence_replaces_the_recipe_and_set_replaces_both(sequence_file):
    path = sequence_file('[agent.ppo]\nepochs = 7\n[[tasks]]\nname = "a"\ngame = "pong"')
    assert resolve(path, "blip").agent.ppo.epochs == 7
    assert resolve(path, "blip", overrides=["ppo.epochs=9"]).agent.ppo.epochs == 9


def test_a_broken_shipped_sequence_does_not_affect_the_others(tmp_path, monkeypatch):
    (tmp_path / "broken.toml").write_text("[")
    (tmp_path / "good.toml").write_text('description = "g"\n[[tasks]]\nname = "ping"\ngame = "pong"')
    monkeypatch.setattr(recipe_files, "recipe_folder", lambda kind: tmp_path)
    assert [game.name for game in list_games()] == ["ping"]
    assert "not valid TOML" in list_sequences()[0].description
    assert recipe_files.sequence_with("ping") == (tmp_path / "good.toml", "ping")


# --- one task of a file


TWO_TASKS = """
[evaluation]
episodes = 7

[agent.ppo]
learning_rate = 1e-3

[[tasks]]
name = "pole"
game = "CartPole-v1"
steps = 5000

[[tasks]]
name = "bar"
game = "{game}"
"""


def test_one_task_of_a_file_is_chosen_with_the_sections_of_the_file(sequence_file):
    path = sequence_file(TWO_TASKS.format(game="no_such_game"))  # not used, so not looked up
    config = resolve(f"{path}:pole", "blip")
    assert [(task.name, task.game, task.steps) for task in config.tasks] == [("pole", "CartPole-v1", 5000)]
    assert (config.sequence_name, config.evaluation.episodes, config.agent.ppo.learning_rate) == ("pole", 7, 1e-3)


def test_tasks_of_a_file_are_chosen_in_any_order_and_visited_again(sequence_file):
    path = sequence_file(TWO_TASKS.format(game="Acrobot-v1"))
    config = resolve(f"{path}:bar,{path}:pole,{path}:bar", "blip")
    assert (config.order, config.evaluation.episodes) == (("bar", "pole", "bar"), 7)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("poll", r"no task 'poll': did you mean pole\? \(expected one of pole, bar\)"),
        ("", r"no task '' \(expected one of pole, bar\)"),
    ],
)
def test_unknown_tasks_of_a_file_are_refused_with_those_there_are(sequence_file, problems, name, message):
    (line,) = problems(f"{sequence_file(TWO_TASKS.format(game='Acrobot-v1'))}:{name}", "blip")
    assert re.search(message, line)


def test_a_missing_file_of_a_task_is_named(problems):
    (line,) = problems("no_such_file.toml:pole", "blip")
    assert line.startswith("no_such_file.toml: cannot be read")
