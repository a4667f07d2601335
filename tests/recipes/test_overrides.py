import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blip_rl.config import RunConfig
from blip_rl.recipes import RecipeError, resolve
from blip_rl.recipes.overrides import REMOVE, parse_override


def test_overrides_change_settings_of_every_section(agent_file):
    config = resolve(
        "kungfu",
        agent_file(),
        overrides=[
            "ppo.learning_rate=1e-4",
            "method.first_task_bits=3",
            "trunk.task_modulation=true",
            "trunk.image.hidden=[256, 128]",
            "evaluation.episodes=5",
            "evaluation.every_steps=50k",
            "atari.frame_skip=2",
            "ppo.clip_range_value=none",
        ],
    )
    assert config.agent.ppo.learning_rate == 1e-4
    assert config.agent.method["first_task_bits"] == 3
    assert config.agent.trunk.task_modulation is True
    assert config.agent.trunk.image.hidden == (256, 128)
    assert (config.evaluation.episodes, config.evaluation.every_steps, config.atari.frame_skip) == (5, 50_000, 2)
    assert config.agent.ppo.clip_range_value is None


def test_another_method_drops_the_settings_of_the_first_but_not_other_overrides(agent_file):
    other = resolve("kungfu", agent_file(), overrides=["method.name=finetune"]).agent.method
    assert other == resolve("kungfu", "finetune").agent.method
    method = resolve("kungfu", "finetune", overrides=["method.first_task_bits=2", "method.name=blip"]).agent.method
    assert (method["name"], method["first_task_bits"]) == ("blip", 2)


def test_naming_the_same_method_keeps_its_settings():
    assert resolve("kungfu", "blip", overrides=["method.name=blip"]) == resolve("kungfu", "blip")


def test_none_removes_a_key(agent_file):
    overrides = ["method.first_task_bits=none", "method.fisher_prior=1e-8"]
    method = resolve("kungfu", agent_file(), overrides=overrides).agent.method
    assert method["fisher_prior"] == 1e-8
    assert "first_task_bits" not in method


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("ppo.epochs", ["expected section.key=value", "--set ppo.learning_rate=1e-4"]),
        ("ppo.epochs=", ["expected section.key=value"]),
        ("=3", ["expected section.key=value"]),
        ("steps=5k", ["'steps' is not a recipe's setting", "use --steps"]),
        ("learning_rate=1", ["expected a key of ppo, trunk, method", "did you mean ppo.learning_rate?"]),
        ("pppo.epochs=3", ["expected a key of ppo", "did you mean ppo.epochs?"]),
        ("ppo=3", ["expected a key of ppo"]),
        ("ppo.epoch=3", ["unknown key", "did you mean epochs?", "allowed:"]),
        ("ppo.epochs=zero", ["input should be a valid integer"]),
        ("ppo.epochs=none", ["missing: this setting has no default"]),
        ("ppo.epoch=none", ["nothing to remove", "did you mean epochs?"]),
        ("atari.frame_size=1", ["greater than or equal to 16"]),
        ("method.gain=papr", ["should be 'paper' or 'reference'", "did you mean paper?"]),
        ("method.name=blop", ["unknown method 'blop': did you mean blip?"]),
        ("method.fisher_prior=1e-8", ["first_task_bits = 4.0: both are given", "--set method.KEY=none removes"]),
        ("learnin=distil", ["expected a key of ppo", "or learning", "did you mean learning?"]),
        ("trunk.image={conv=[[1, 0, 3]]}", ["trunk.image.conv[0][1] = 0", "greater than or equal to 1"]),
    ],
)
def test_invalid_overrides_are_refused(text, parts, problems, agent_file):
    lines = problems("kungfu", agent_file(), overrides=[text])
    assert any(all(part in line for part in [*parts, f"--set {text}"]) for line in lines), lines


def test_an_error_of_the_recipe_is_not_attributed_to_an_override(agent_file, problems):
    path = agent_file("first_task_bits = 4", "first_task_bits = 4\nfisher_prior = 1e-8")
    (line,) = problems("pong", path, overrides=["method.nested=false"])
    assert "mine.toml: method:" in line


def test_all_errors_are_reported_at_once(problems, agent_file):
    lines = problems(
        "kungfoo",
        agent_file(),
        steps="5x",
        seed=-1,
        device="gpu",
        overrides=["ppo.epochs=0", "method.gain=x", "atari.frame_skip=0", "bad"],
    )
    starts = ["--steps '5x'", "--seed -1", "--device 'gpu'", "--set bad", "unknown game 'kungfoo'"]
    starts += ["--set ppo.epochs=0", "--set method.gain=x", "--set atari.frame_skip=0"]
    assert len(lines) == len(starts)
    assert all(line.startswith(start) for line, start in zip(lines, starts, strict=True)), lines


def test_long_lists_of_errors_are_truncated(tmp_path):
    path = tmp_path / "flood.toml"
    path.write_text("".join(f"k{number} = 1\n" for number in range(5000)))
    with pytest.raises(RecipeError) as caught:
        resolve("pong", str(path))
    assert len(str(caught.value).splitlines()) == 22
    assert str(caught.value).endswith("more")


@given(st.text(max_size=60) | st.from_regex(r"(ppo|method|atari)\.[a-z_]{1,12}=.{0,30}", fullmatch=True))
@settings(deadline=None)
def test_any_text_is_parsed_or_refused_with_a_message(outcome, text):
    override, message = outcome(parse_override, text)
    if override is None:
        assert message.isprintable()
        assert "expected" in message or "use --" in message
    else:
        assert len(override.key) >= 2
        assert override.value is not None


@given(st.integers() | st.floats(allow_nan=False) | st.booleans())
def test_values_are_parsed_as_toml(value):
    written = str(value).lower() if isinstance(value, bool) else repr(value)
    read = parse_override(f"ppo.x={written}").value
    assert read == value
    assert type(read) is type(value)


@given(st.text())
def test_a_line_break_in_a_value_adds_no_keys(text):
    value = parse_override(f"ppo.x=1\n{text}=2").value
    assert value is REMOVE or isinstance(value, int | str)


@given(st.sampled_from(["ppo.epochs", "method.total_bits", "evaluation.seed", "trunk.image", "method.name"]), st.text())
@settings(deadline=None, max_examples=50)
def test_any_value_resolves_or_is_refused_with_a_message(outcome, key, value):
    config, message = outcome(resolve, "kungfu", "blip", overrides=[f"{key}={value}"])
    assert message or isinstance(config, RunConfig)
