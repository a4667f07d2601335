"""``base`` of an agent recipe: shipped names only, one level, and the shipped agents resolve as recorded."""

import json
from pathlib import Path

import pytest

import blip_rl.recipes.agent
from blip_rl.agent_config import AgentConfig
from blip_rl.methods import load_method
from blip_rl.recipes import resolve
from blip_rl.recipes.files import read_recipe, recipe_folder, recipe_names

# Recorded from recipes that repeated every setting, before recipes had bases; packnet: one task, as there is one game.
RESOLVED = json.loads((Path(__file__).parent / "resolved_agents.json").read_text(encoding="utf-8"))
MINE = 'description = "mine"\nbase = "ppo"\n\n[method]\nname = "finetune"\n'


def test_every_agent_with_a_reference_resolution_is_shipped():
    assert set(RESOLVED) <= set(recipe_names("agents"))


@pytest.mark.parametrize("agent", RESOLVED)
def test_resolved_agents_equal_the_recipes_written_out_in_full(agent):
    found, recorded = resolve("pong", agent).agent, RESOLVED[agent]
    fields = load_method(recorded["method"]["name"]).Settings.model_fields
    defaults = {name: field.default for name, field in fields.items() if field.default is not None}
    method = defaults | recorded["method"]
    assert found == AgentConfig(**recorded | {"method": method})  # settings added since: their defaults


@pytest.mark.parametrize("agent", recipe_names("agents"))
def test_a_shipped_recipe_repeats_nothing_of_its_base(agent):
    values = read_recipe(recipe_folder("agents") / f"{agent}.toml")
    base = read_recipe(recipe_folder("agents") / "base" / f"{values['base']}.toml")
    assert not repeated(values, base)


def repeated(values, base):
    return [
        key
        for key, value in values.items()
        if key in base and (repeated(value, base[key]) if isinstance(value, dict) else value == base[key])
    ]


def test_a_base_is_not_an_agent(problems):
    assert "ppo" not in recipe_names("agents")
    (line,) = problems("cartpole4", "ppo")
    assert "unknown agent 'ppo'" in line


@pytest.fixture
def mine(tmp_path):
    def write(text):
        path = tmp_path / "mine.toml"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


def test_a_file_inherits_from_its_base_and_replaces_settings(mine):
    inherited = resolve("pong", mine(MINE)).agent
    assert inherited.ppo == resolve("pong", "finetune").agent.ppo
    assert inherited.description == "mine"
    changed = resolve("pong", mine(MINE + "[ppo]\nepochs = 2\n[trunk.vector]\nhidden = [8]\n")).agent
    assert (changed.ppo.epochs, changed.ppo.minibatches) == (2, inherited.ppo.minibatches)
    assert (changed.trunk.vector.hidden, changed.trunk.vector.activation) == ((8,), "tanh")
    changed = resolve("pong", mine(MINE + "[ppo]\nepochs = 2\n"), overrides=["ppo.epochs=3"]).agent
    assert changed.ppo.epochs == 3


@pytest.mark.parametrize(
    ("base", "parts"),
    [
        ('"pp0"', ["base = 'pp0'", "unknown base", "did you mean ppo?"]),
        ('"blip"', ["base = 'blip'", "expected a shipped one: ppo"]),
        ('"./ppo.toml"', ["base = './ppo.toml'", "expected a shipped one: ppo"]),
        ("3", ["base = 3", "expected a shipped one: ppo"]),
    ],
)
def test_an_unknown_base_is_refused(base, parts, mine, problems):
    (line,) = problems("pong", mine(MINE.replace('"ppo"', base)))
    assert all(part in line for part in [*parts, "mine.toml"]), line


def test_a_base_with_a_base_is_refused(mine, problems, tmp_path, monkeypatch):
    nested = tmp_path / "nested.toml"
    nested.write_text('base = "ppo"\n')
    monkeypatch.setattr(blip_rl.recipes.agent, "find_base", lambda _: nested)
    (line,) = problems("pong", mine(MINE))
    assert "nested.toml: base = 'ppo': a base cannot have a base itself" in line


@pytest.mark.parametrize("text", ['base = "ppo"\n', '[agent]\nbase = "ppo"\n'])
def test_a_sequence_with_a_base_is_refused(text, sequence_file, problems):
    (line,) = problems(sequence_file(f'{text}[[tasks]]\nname = "pong"\ngame = "pong"\nsteps = 1\n'), "blip")
    assert "mine.toml: base: only an agent recipe can have a base" in line


def test_errors_name_the_file_that_sets_the_value_or_lacks_it(mine, problems):
    (line,) = problems("pong", mine('description = "mine"\nbase = "ppo"\n'))
    assert "mine.toml: method: missing" in line
    (line,) = problems("pong", mine(MINE + "[ppo]\nepochs = 0\n"))
    assert "mine.toml: ppo.epochs = 0" in line


def test_an_option_cannot_change_the_base(problems):
    (line,) = problems("pong", "blip", overrides=["base=ppo"])
    assert line.startswith("--set base=ppo")
