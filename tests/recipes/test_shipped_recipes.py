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


def test_the_lists_name_every_recipe():
    assert [agent.name for agent in list_agents()] == AGENTS
    assert [sequence.name for sequence in list_sequences()] == SEQUENCES
    assert {"blip", "blip-paper", "blip-reference", "finetune"} <= set(AGENTS)
    assert {"atari6", "atari2", "cartpole4"} <= set(SEQUENCES)
    assert all(recipe.description and recipe.path.is_file() for recipe in list_agents() + list_sequences())


def test_the_papers_games_come_first():
    assert [game.name for game in list_games()][:6] == PAPER_ORDER
    assert {"atari6", "atari2"} <= set(list_games()[0].sequences)


@pytest.mark.parametrize("agent", AGENTS)
@pytest.mark.parametrize("sequence", SEQUENCES)
def test_every_agent_runs_every_sequence_and_round_trips(agent, sequence, tmp_path):
    config = resolve(sequence, agent)
    (tmp_path / "config.toml").write_text(dump_run_config(config), encoding="utf-8")
    assert load_run_config(tmp_path) == load_run_config(tmp_path / "config.toml") == config
    assert (config.agent_name, config.sequence_name) == (agent, sequence)


def test_atari6_is_the_papers_order_with_published_scores():
    tasks = resolve("atari6", "blip").tasks
    assert [task.name for task in tasks] == PAPER_ORDER
    assert all(task.steps == 10_000_000 and task.title for task in tasks)
    boxing = tasks[1]
    assert (boxing.random_score, boxing.reference_score, boxing.human_score) == (0.1, 94.6, 12.1)


@pytest.mark.parametrize(
    ("agent", "expected"),
    [
        ("blip-paper", {"gain": "paper", "round_after_task": False, "weight_bound": "unit", "prior_scale": "uniform"}),
        ("blip-reference", {"gain": "reference", "round_after_task": True, "nested": False, "fisher_prior": 1.92e-14}),
        ("finetune", {"name": "finetune"}),
        ("ewc", {"name": "ewc", "strength": 80.6, "fisher_samples": 2000}),
        ("ewc-online", {"name": "ewc_online", "strength": 80.6, "gamma": 1.0}),
        ("l2", {"name": "l2", "strength": 10.0}),
        ("freeze", {"name": "freeze"}),
    ],
)
def test_variants_differ_where_they_should(agent, expected):
    method = resolve("atari6", agent).agent.method
    assert expected.items() <= method.items()


@pytest.mark.parametrize("agent", AGENTS)
def test_only_the_reference_recipe_has_the_releases_ppo_losses(agent):
    ppo = resolve("atari6", agent).agent.ppo
    releases = ("max", 0.5, "rollout")
    expected = releases if agent == "blip-reference" else ("clipped", 1.0, "minibatch")
    assert (ppo.value_loss, ppo.value_loss_scale, ppo.normalize_advantage) == expected
    assert ppo.value_coefficient == 0.5
