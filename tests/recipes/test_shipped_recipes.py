import pytest

from blip_rl.recipes import (
    dump_run_config,
    list_agents,
    list_games,
    list_sequences,
    load_run_config,
    resolve,
)
from blip_rl.recipes.files import recipe_names

AGENTS = recipe_names("agents")
SEQUENCES = recipe_names("envs")
PAPER_ORDER = ["kungfu", "boxing", "jamesbond", "krull", "riverraid", "spaceinvaders"]


def test_lists_name_every_shipped_recipe():
    assert [agent.name for agent in list_agents()] == AGENTS
    assert [sequence.name for sequence in list_sequences()] == SEQUENCES
    assert {"blip", "blip-paper", "blip-reference", "finetune"} <= set(AGENTS)
    assert {"atari6", "atari2", "cartpole4"} <= set(SEQUENCES)
    assert all(recipe.description and recipe.path.is_file() for recipe in list_agents() + list_sequences())


def test_list_of_games_begins_with_those_of_the_paper():
    assert [game.name for game in list_games()][:6] == PAPER_ORDER
    assert {"atari6", "atari2"} <= set(list_games()[0].sequences)


@pytest.mark.parametrize(
    ("agent", "sequence"),
    [*((agent, "cartpole4") for agent in AGENTS), *(("blip", sequence) for sequence in SEQUENCES)],
)
def test_a_resolved_shipped_recipe_is_read_back_as_it_was_written(agent, sequence, tmp_path):
    config = resolve(sequence, agent)
    (tmp_path / "config.toml").write_text(dump_run_config(config), encoding="utf-8")
    assert load_run_config(tmp_path) == load_run_config(tmp_path / "config.toml") == config
    assert (config.agent_name, config.sequence_name) == (agent, sequence)


def test_atari6_has_the_order_of_the_paper_and_published_scores():
    tasks = resolve("atari6", "blip").tasks
    assert [task.name for task in tasks] == PAPER_ORDER
    assert all(task.steps == 10_000_000 and task.title for task in tasks)
    boxing = tasks[1]
    assert (boxing.random_score, boxing.reference_score, boxing.human_score) == (0.1, 94.6, 12.1)


def test_packnet_shares_the_trunk_among_the_tasks_of_the_run():
    assert resolve("cartpole12", "packnet").agent.method["tasks"] == 12
    assert resolve("kungfu,boxing", "packnet").agent.method["tasks"] == 2
    assert resolve("cartpole12", "packnet", overrides=["method.tasks=3"]).agent.method["tasks"] == 3
    assert "tasks" not in resolve("cartpole12", "gpm").agent.method
