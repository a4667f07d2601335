"""Plans of sweeps: seeds, grids, settings of single agents, and what is wrong with them."""

import datetime
import tomllib

import pytest

from blip_rl.errors import UserError
from blip_rl.sweeps.plan import parse_seeds, read_plan


def plan(**values):
    return read_plan(None, {"sequences": ("cartpole4",), "seeds": "0"} | values)


@pytest.mark.parametrize(
    ("given", "seeds"),
    [("0-3", (0, 1, 2, 3)), ("0,2,5", (0, 2, 5)), ("7-8, 3", (7, 8, 3)), (4, (4,)), ([1, 0], (1, 0)), ("2-2", (2,))],
)
def test_seeds_are_read_in_the_order_given(given, seeds):
    assert parse_seeds(given) == seeds


@pytest.mark.parametrize(
    "given",
    [
        "",
        "5-2",
        "1,1",
        "0-3,2",
        "a",
        "-1",
        "1-",
        [],
        [-1],
        True,
        1.5,
        "9999999999",
        "0-200000",
        "0-1073741823",
        "0-99999,0-99999",
    ],
)
def test_seeds_that_make_no_sense_are_refused(given):
    with pytest.raises(ValueError, match="expected"):
        parse_seeds(given)


def test_every_combination_of_a_grid_is_a_setting():
    found = plan(agents="ewc,blip", set={"ppo.epochs": 2}, grid={"ppo.gamma": [0.9, 0.99], "method.strength": [1, 10]})
    assert list(found.settings_of("ewc")) == [
        {"ppo.epochs": 2, "ppo.gamma": gamma, "method.strength": strength}
        for gamma in (0.9, 0.99)
        for strength in (1, 10)
    ]


def test_an_agent_has_settings_of_its_own(tmp_path):
    file = tmp_path / "sweep.toml"
    file.write_text(
        """
        agents = ["ewc", "finetune"]
        sequences = "cartpole4"
        seeds = "0-1"
        grid.ppo.gamma = [0.9, 0.99]
        set = {ppo.epochs = 2}
        [agent.ewc]
        grid = {method.strength = [1, 10]}
        set = {ppo.epochs = 3}
        """
    )
    found = read_plan(file, {"seeds": "4", "set": {"ppo.clip": 0.1}})
    assert found.seeds == (4,)
    assert len(list(found.settings_of("ewc"))) == 4
    assert list(found.settings_of("finetune")) == [
        {"ppo.epochs": 2, "ppo.clip": 0.1, "ppo.gamma": gamma} for gamma in (0.9, 0.99)
    ]
    assert next(found.settings_of("ewc"))["ppo.epochs"] == 3
    assert (found.varied_by("ewc"), found.varied_by("finetune")) == (["ppo.gamma", "method.strength"], ["ppo.gamma"])


def test_some_of_a_plans_agents_can_be_run(tmp_path):
    file = tmp_path / "sweep.toml"
    text = """
        agents = ["ewc", "finetune"]
        sequences = "cartpole4"
        seeds = "0"
        [agent.ewc.grid]
        method.strength = [1, 10]
        """
    file.write_text(text)
    assert read_plan(file, {"agents": "finetune"}).agent == {}
    assert len(list(read_plan(file, {"agents": "ewc"}).settings_of("ewc"))) == 2
    file.write_text(text + "[agent.ewx.grid]\n")
    with pytest.raises(UserError, match=r"agent\.ewx: settings of an agent that is not run"):
        read_plan(file, {"agents": "finetune"})


AGAIN = """
agents = ["ewc", "finetune"]
sequences = "cartpole4"
seeds = "0"
[set]
ppo.epochs = 2
[grid]
ppo.gamma = [0.9, 0.99]
[agent.ewc.set]
method.strength = 5
"ppo.epochs" = 3
[agent.ewc.grid]
"method.samples" = [1, 2]
"""


@pytest.mark.parametrize("as_file", [True, False])
@pytest.mark.parametrize(
    ("options", "ewc"),
    [
        ({"set": {"ppo.gamma": 0.5}}, {"ppo.gamma": [0.5], "ppo.epochs": [3], "method.samples": [1, 2]}),
        ({"set": {"ppo": {"epochs": 7}}}, {"ppo.gamma": [0.9, 0.99], "ppo.epochs": [7], "method.samples": [1, 2]}),
        ({"set": {"method.samples": 9}}, {"method.samples": [9], "method.strength": [5]}),
        ({"set": {"method.strength": 50.0}}, {"method.samples": [1, 2], "method.strength": [50.0]}),
        ({"set": {"method": None}}, {"method": [None], "method.samples": [None], "method.strength": [None]}),
        ({"grid": {"ppo.epochs": [7, 8]}}, {"ppo.epochs": [7, 8], "ppo.gamma": [0.9, 0.99]}),
        ({"grid": {"method.strength": [7, 8]}}, {"method.strength": [7, 8], "method.samples": [1, 2]}),
        ({"grid": {"method.samples": [7, 8]}}, {"method.samples": [7, 8], "method.strength": [5]}),
    ],
)
def test_settings_of_options_win_over_those_of_a_plan(options, ewc, as_file, tmp_path):
    """The command that a search prints gives the best settings with ``--set``, whatever else the plan has for them."""
    file = tmp_path / "sweep.toml"
    file.write_text(AGAIN)
    found = read_plan(file if as_file else tomllib.loads(AGAIN), options)
    for key, values in ewc.items():
        assert list(dict.fromkeys(one.get(key) for one in found.settings_of("ewc"))) == values
        assert (key in found.varied_by("ewc")) == (len(values) > 1)


@pytest.mark.parametrize(
    ("options", "strengths"),
    [({"set": {"method.strength": 5}}, [5]), ({"grid": {"method": {"strength": [5, 6]}}}, [5, 6])],
)
@pytest.mark.parametrize("for_one", [True, False])
def test_what_an_option_sets_or_varies_is_not_searched(options, strengths, for_one):
    search = {"method": {"strength": {"low": 1, "high": 9}}, "ppo.gamma": {"choices": [0.9, 0.99]}}
    ranges = {"agent": {"ewc": {"search": search}}} if for_one else {"search": search}
    found = read_plan({"agents": "ewc", "sequences": "cartpole4", "seeds": "0", **ranges}, options)
    assert list(found.ranges_of("ewc")) == ["ppo.gamma"]
    assert [one["method.strength"] for one in found.settings_of("ewc")] == strengths


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"seeds": "5-2"}, "--seeds '5-2': the range 5-2 runs backwards: expected 2-5"),
        ({"seeds": ""}, "--seeds '': expected seeds such as 0-9"),
        ({"tuning_seeds": "0-2"}, "seed 0 is in seeds and in tuning_seeds"),
        ({"agents": "blip,blip"}, "expected each once"),
        ({"agent": {"ewc": {}}}, "agent.ewc: settings of an agent that is not run: expected one of blip"),
        ({"grid": {"ppo.gamma": 0.9}}, "--grid ppo.gamma = 0.9: expected a list of values"),
        ({"grid": {"ppo.gamma": []}}, "expected a list of values"),
        ({"sequences": None}, "--games is missing"),
        ({"device": "cuda:1"}, "--device 'cuda:1': expected auto, cpu or cuda, because a sweep spreads its runs over"),
        (
            {"agents": "ewc", "agent": {"ewc": {"grit": {}}}},
            "agent.ewc.grit = a table: unknown key: did you mean grid?",
        ),
    ],
)
def test_a_wrong_option_is_named_with_its_rule(values, message):
    with pytest.raises(UserError) as error:
        plan(**values)
    assert message in str(error.value)


def test_a_wrong_key_of_a_file_is_named_with_the_file(tmp_path):
    file = tmp_path / "sweep.toml"
    file.write_text('sequence = "cartpole4"\nseeds = "3-1"\n')
    with pytest.raises(UserError) as error:
        read_plan(file, {})
    assert f"{file}: sequence = 'cartpole4': unknown key: did you mean sequences?" in str(error.value)
    assert f"{file}: seeds = '3-1': the range 3-1 runs backwards" in str(error.value)


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("[set]\nppo.epochs = 2020-01-01\n", {}, "sweep.toml: set: ppo.epochs = 2020-01-01: expected numbers"),
        (
            "[grid]\nppo.epochs = [1, 12:30:00]\n",
            {},
            "sweep.toml: grid: ppo.epochs = 12:30:00: expected",
        ),
        ("[agent.blip.set]\nppo.x = [[2020-01-01]]\n", {}, "sweep.toml: agent.blip.set: ppo.x = 2020-01-01: "),
        (
            "",
            {"set": {"ppo.epochs": datetime.datetime(2020, 1, 1)}},
            "--set ppo.epochs = 2020-01-01 00:00:00: expected",
        ),
        ("", {"grid": {"ppo.epochs": [datetime.date(2020, 1, 1)]}}, "--grid ppo.epochs = 2020-01-01: "),
    ],
)
def test_dates_and_times_are_refused(text, options, message, tmp_path):
    """They cannot be written as JSON."""
    file = tmp_path / "sweep.toml"
    file.write_text(f'sequences = "cartpole4"\nseeds = "0"\n{text}')
    with pytest.raises(UserError) as error:
        read_plan(file, options)
    assert message in str(error.value)
    assert "not a date or time" in str(error.value)


def test_many_seeds_are_read_at_once():
    """Counting each among all others took minutes."""
    assert len(parse_seeds("0-99999")) == 100_000
