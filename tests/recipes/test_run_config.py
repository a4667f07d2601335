import tomllib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blip_rl.config import RunConfig
from blip_rl.errors import UserError
from blip_rl.recipe_errors import show
from blip_rl.recipes import (
    RecipeError,
    dump_run_config,
    load_run_config,
    resolve,
)


def test_unset_values_are_not_written(agent_file):
    values = tomllib.loads(dump_run_config(resolve("adventure", agent_file())))
    assert "fisher_prior" not in values["agent"]["method"]
    assert "random_score" not in values["tasks"][0]
    assert values["agent"]["method"]["total_bits"] == 20


@given(
    st.floats(min_value=1e-300, max_value=1e300),
    st.integers(1, 10**5),
    st.integers(0, 2**30 - 1),
    st.floats(0.01, 19.9),
)
@settings(deadline=None, max_examples=30)
def test_numbers_are_read_back_as_they_were_written(rate, episodes, seed, bits):
    overrides = [f"ppo.learning_rate={rate!r}", f"evaluation.episodes={episodes}", f"method.first_task_bits={bits!r}"]
    overrides.append("method.name=blip")
    config = resolve("kungfu", "finetune", seed=seed, overrides=overrides)
    assert RunConfig.model_validate(tomllib.loads(dump_run_config(config))) == config


@pytest.mark.parametrize(
    ("old", "new", "rule"),
    [
        (
            "total_bits = 20",
            "total_bits = 99",
            "agent.method.total_bits = 99: input should be less than or equal to 22",
        ),
        ('\nname = "blip"', '\nname = "blop"', "agent.method.name = 'blop': unknown method"),
        ('device = "auto"', 'devic = "auto"', "devic = 'auto': unknown key: did you mean device?"),
    ],
)
def test_an_invalid_run_config_is_refused(old, new, rule, tmp_path, agent_file):
    text = dump_run_config(resolve("pong", agent_file()))
    assert old in text
    (tmp_path / "config.toml").write_text(text.replace(old, new, 1))
    with pytest.raises(RecipeError) as caught:
        load_run_config(tmp_path)
    assert any(rule in line and "config.toml" in line for line in caught.value.problems), caught.value.problems


@pytest.mark.parametrize(("pull", "refused"), [("0.0", ()), ("2.0", ("agent.method.pull = 2.0: unknown key",))])
def test_a_setting_that_no_longer_exists_is_refused_only_where_a_run_used_it(pull, refused, tmp_path, agent_file):
    config = resolve("pong", agent_file())
    retired = f'pull = {pull}\npull_fisher = "diagonal"\npull_damping = 0.0\npull_rank = 32\nbudget = 0.0\n'
    text = dump_run_config(config).replace("total_bits = 20\n", f"total_bits = 20\n{retired}")
    assert retired in text
    (tmp_path / "config.toml").write_text(text)
    if not refused:
        assert load_run_config(tmp_path) == config
        return
    with pytest.raises(RecipeError) as caught:
        load_run_config(tmp_path)
    assert all(rule in line for rule, line in zip(refused, caught.value.problems, strict=True))


def test_a_folder_without_a_recipe_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"no config\.toml in it: expected a run's folder"):
        load_run_config(tmp_path)


def test_values_are_shown_on_one_short_line():
    assert show(True) == "true"
    assert show({"a": 1}) == "a table"
    assert show("a\nb") == r"'a\nb'"
    assert len(show("x" * 1000)) == 60
    assert "digits" in show(10**5000)
