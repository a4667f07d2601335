import pytest

from blip_rl import listing
from blip_rl.recipes import resolve, summary
from blip_rl.recipes.summary import sequence_infos
from tests.recipes.test_settings import invoke

INFOS = {info.name: info for info in sequence_infos()}
TAGS = {
    "atari6": ("atari",),
    "carmack8": ("atari", "cycles", "task-blind"),
    "cora6": ("atari", "cycles", "task-blind"),
    "freeway-modes": ("atari", "modes"),
    "minatar5": ("minatar", "laptop"),
    "cartpole12": ("laptop",),
}


@pytest.mark.parametrize("name", INFOS)
def test_stages_and_steps_equal_those_of_the_resolved_sequence(name):
    config = resolve(name, "finetune")
    assert (INFOS[name].stages, INFOS[name].steps) == (config.stages, config.total_steps)
    assert INFOS[name].description


def test_expected_hours_are_steps_divided_by_the_speed_of_each_game(monkeypatch):
    monkeypatch.setattr(summary, "STEPS_PER_SECOND", {"atari": 1000, "minatar": 10, "other": 1})
    hours = {info.name: info.hours for info in sequence_infos()}
    assert hours["atari6"] == pytest.approx(60e6 / 1000 / 3600)
    assert hours["minatar5"] == pytest.approx(5e6 / 10 / 3600)
    assert hours["cartpole4"] == pytest.approx(480_000 / 3600)


def test_every_tag_can_be_asked_for():
    assert {tag for info in INFOS.values() for tag in info.tags} == set(listing.TAGS)


def test_tags_say_what_a_sequence_needs_and_is():
    assert {name: INFOS[name].tags for name in TAGS} == TAGS


def test_list_shows_the_sequences_of_a_tag():
    lines = invoke("list", "sequences", "--tag", "task-blind").stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["carmack8", "cora6"]
    assert "24 stages" in lines[0]
    assert "2.4M steps" in lines[0]
    assert "2.9 h" in lines[0]
    refused = invoke("list", "agents", "--tag", "laptop")
    assert refused.exit_code == 2
    assert "--tag laptop with agents: expected sequences, which alone have tags" in refused.output
