from pathlib import Path

import pytest

from blip_rl.recipes import resolve


@pytest.mark.parametrize(
    ("old", "new", "parts"),
    [
        (
            "learning_rate =",
            "lerning_rate =",
            ["ppo.lerning_rate = 0.00025", "did you mean learning_rate?", "allowed: env"],
        ),
        ("epochs = 4", "epochs = true", ["ppo.epochs = true", "expected a number"]),
        ('"relu"', '"rlu"', ["trunk.image.activation = 'rlu'", "'relu', 'tanh', 'elu' or 'silu': did you mean relu?"]),
        ("[32, 8, 4]", "[32, 8]", ["trunk.image.conv[0][2]: missing"]),
        ("task_modulation = false", "", ["trunk.task_modulation: missing", "no default"]),
        ('name = "blip"', "", ["method.name: missing", "one of: blip"]),
        ('name = "blip"', 'name = "blop"', ["method.name = 'blop'", "did you mean blip?", "blip-rl list methods"]),
        ("first_task_bits = 4", "first_bits = 4", ["method.first_bits = 4", "did you mean first_task_bits?"]),
        ("first_task_bits = 4", "", ["method: fisher_prior = None", "first_task_drift = None: none is given"]),
        ("minibatches = 8", "minibatches = 7", ["ppo: minibatches = 7", "expected a divisor of"]),
    ],
)
def test_invalid_agent_files_are_refused(old, new, parts, agent_file, problems):
    lines = problems("pong", agent_file(old, new))
    assert any(all(part in line for part in [*parts, "mine.toml"]) for line in lines), lines
    assert not any("pydantic" in line or "http" in line for line in lines)


def test_an_agent_is_named_after_its_file(agent_file):
    assert resolve("pong", agent_file()).agent_name == "mine"


@pytest.mark.parametrize("name", ["my\u00a0agent", "a\u200db", "o\udcff"])
def test_a_file_name_with_which_the_run_could_not_be_opened_is_refused(name, agent_file, sequence_file, problems):
    """A run folder may come from anybody, so names in it have to be printable."""
    agent = Path(agent_file())
    (line,) = problems("pong", str(agent.rename(agent.with_name(f"{name}.toml"))))
    assert f"agent {name!a}: expected a file name of printable characters" in line
    assert "(rename the file)" in line
    games = Path(sequence_file('[[tasks]]\nname = "a"\ngame = "pong"\n'))
    (line,) = problems(str(games.rename(games.with_name(f"{name}.toml"))), "blip")
    assert f"sequence {name!a}: expected a file name of printable characters" in line


def test_an_unknown_agent_gets_a_suggestion(problems):
    (line,) = problems("pong", "blop")
    assert "unknown agent 'blop': did you mean blip?" in line
    assert "blip-rl list agents" in line


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (b"a = ", "not valid TOML: Invalid value"),
        (b"a = 1\nb 2", "line 2"),
        (b"\xff\xfe\x00", "not UTF-8 text"),
        (b"# " + b"x" * 1_000_000, "larger than 1,000,000 bytes"),
        (b"a = " + b"[" * 5000, "nested too deeply"),
        (b"a = " + b"9" * 5000, "not valid TOML"),
        (b"", "description: missing"),
    ],
)
def test_files_that_are_not_recipes_are_refused(content, rule, tmp_path, problems):
    path = tmp_path / "odd.toml"
    path.write_bytes(content)
    lines = problems("pong", str(path))
    assert "odd.toml" in lines[0]
    assert rule in lines[0]


@pytest.mark.parametrize("name", ["folder.toml", "null\0.toml", "line\nbreak.toml", "x" * 5000 + ".toml"])
def test_paths_that_are_not_files_are_refused(name, tmp_path, monkeypatch, problems):
    (tmp_path / "folder.toml").mkdir()
    monkeypatch.chdir(tmp_path)
    (line,) = problems("pong", name)
    assert "expected the path of a TOML recipe" in line
    assert line.isprintable()


def test_a_byte_order_mark_is_accepted(agent_file):
    path = Path(agent_file())
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert resolve("pong", str(path)).agent_name == "mine"
