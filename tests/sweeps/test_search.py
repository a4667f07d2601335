"""Search: trials on the tuning seeds, their values, and going on, with suggestions of the test and of Optuna."""

import shlex
import sys

import pytest
from click.testing import CliRunner

from blip_rl.cli import cli
from blip_rl.errors import RunError, UserError
from blip_rl.sweeps import optuna_sampler
from blip_rl.sweeps import run as sweep_run
from blip_rl.sweeps.manifest import load_manifest
from blip_rl.sweeps.plan import read_plan
from blip_rl.sweeps.ranges import Range
from blip_rl.sweeps.search import Search
from tests.reporting import report_runs as made
from tests.sweeps.small_sweeps import SEQUENCE, FakeEngine, with_engine

NAME = "cartpole-a+cartpole-b-ewc-strength={:.1f}-seed{}"
RANGE = {"low": 1.0, "high": 100.0, "log": True}


def plan(**values):
    given = {"agents": "finetune,ewc", "sequences": (SEQUENCE,), "seeds": "0-1", "tuning_seeds": "7-8", "device": "cpu"}
    given["agent"] = {"ewc": {"search": {"method": {"strength": RANGE}}}}
    return read_plan(None, given | values)


class ScoringEngine(FakeEngine):
    """Finishes each job at once with the score strength / 100 + seed / 1000 in both games."""

    def submit(self, job):
        super().submit(job)
        strength, seed = (float(part) for part in job.name.removeprefix(NAME.partition("{")[0]).split("-seed"))
        if self.endings.get(job.name) or self.stopped:
            return
        run = made.make_run(job.path, games=("cartpole-a", "cartpole-b"), bits=False, logs=False)
        (run / "config.toml").write_text(job.recipe)
        rows = [
            [1, stage, phase, game, 0, 0, 9, 0, strength / 100 + seed / 1000, "greedy"]
            for stage in (1, 2)
            for phase in ("before", "after")
            for game in ("cartpole-a", "cartpole-b")[:stage]
        ]
        made.write_table(run / "scores.csv", made.SCORE_COLUMNS, rows)
        (run / "checkpoints" / "stage-02").mkdir(parents=True, exist_ok=True)


class Suggested:
    """Suggests strengths in this order, and remembers what it was told."""

    def __init__(self, *strengths):
        self.left, self.told = list(strengths), []

    def __call__(self, ranges, tried, count):
        assert ranges == {"method.strength": Range(**RANGE)}
        self.told.append([(values["method.strength"], value) for values, value in tried])
        return [{"method.strength": self.left.pop(0)} for _ in range(count)]


def search(folder, suggest, trials, places=2, **engine):
    found = ScoringEngine(places=4, **engine)
    Search(plan(), folder).run(found, suggest, trials=trials, places=places, retries=0)
    return found


def test_a_trial_has_the_mean_acc_of_its_runs_on_the_tuning_seeds(tmp_path, capsys):
    suggest = Suggested(10.0, 50.0, 20.0)
    engine = search(tmp_path / "x", suggest, trials=3, places=4)  # two trials of two seeds in a round
    assert engine.submitted[:4] == [NAME.format(strength, seed) for strength in (10, 50) for seed in (7, 8)]
    assert suggest.told == [[], [(10.0, pytest.approx(0.1075)), (50.0, pytest.approx(0.5075))]]
    lines = capsys.readouterr().out.splitlines()[-6:]
    assert lines[0] == "ewc: 3 trials on seeds 7, 8"
    assert lines[2].split() == ["0.508", "method.strength", "=", "50.0"]
    assert lines[-1] == "to report it on seeds 0, 1: sweep PLAN --agents ewc --set method.strength=50.0"
    assert {run.seed for run in load_manifest(tmp_path / "x").runs} == {7, 8}


def test_the_command_that_a_search_prints_runs_its_best_settings(tmp_path, monkeypatch):
    """Also where the plan has another value for the agent."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sweep.toml").write_text(
        f'agents = ["finetune", "ewc"]\nsequences = "{SEQUENCE}"\nseeds = "0-1"\ntuning_seeds = "7-8"\ndevice = "cpu"\n'
        "[agent.ewc]\nset.method.strength = 5\nsearch.method.strength = {low = 1.0, high = 100.0, log = true}\n"
    )
    searched = Search(read_plan(tmp_path / "sweep.toml", {}), tmp_path / "x")
    searched.run(ScoringEngine(places=4), Suggested(50.0), trials=1, places=2, retries=0)
    words = shlex.split(searched.summary().partition("sweep PLAN ")[2])
    engines = []
    monkeypatch.setattr(sweep_run, "Schedule", with_engine(engines))
    result = CliRunner().invoke(cli, ["sweep", "sweep.toml", *words, "--out", "y"])
    assert result.exit_code == 0, result.output
    manifest = load_manifest(tmp_path / "y")
    (setting,) = manifest.settings
    assert manifest.config_of(setting).agent.method["strength"] == 50.0


def test_a_search_goes_on_and_may_be_extended(tmp_path):
    search(tmp_path / "x", Suggested(10.0), trials=1)
    suggest = Suggested(20.0)
    engine = search(tmp_path / "x", suggest, trials=2)
    assert engine.submitted == [NAME.format(20, seed) for seed in (7, 8)]
    assert [told for told, _ in suggest.told[0]] == [10.0]
    assert search(tmp_path / "x", Suggested(), trials=2).submitted == []


def test_a_trial_whose_run_fails_has_no_value_and_the_search_goes_on(tmp_path):
    suggest = Suggested(10.0, 20.0)
    with pytest.raises(RunError, match="1 of 4 runs failed"):
        search(tmp_path / "x", suggest, trials=2, endings={NAME.format(10, 8): ["failed"]})
    assert suggest.told[1] == [(10.0, None)]
    # Again: what was unfinished is tried once more, and nothing new is suggested.
    assert search(tmp_path / "x", Suggested(), trials=2).submitted == [NAME.format(10, 8)]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"agent": {}}, "--search without ranges"),
        ({"tuning_seeds": None}, "--search without tuning seeds"),
        ({"grid": {"ppo.epochs": [1, 2]}}, "--search with a grid of ppo.epochs"),
    ],
)
def test_a_plan_that_cannot_be_searched_is_refused(tmp_path, values, message):
    with pytest.raises(UserError, match=message):
        Search(plan(**values), tmp_path / "x")


def test_other_ranges_and_a_sequence_without_normalised_scores_are_refused(tmp_path):
    search(tmp_path / "x", Suggested(10.0), trials=1)
    other = {"ewc": {"search": {"method.strength": {"low": 1, "high": 5}}}}
    with pytest.raises(UserError, match="holds a search over other ranges"):
        Search(plan(agent=other), tmp_path / "x")
    with pytest.raises(UserError, match=r"no game of Acrobot-v1-ewc-strength=1.0 has them"):
        Search(plan(sequences="Acrobot-v1"), tmp_path / "y").examples()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"low": 1}, "expected low below high"),
        ({"low": 2, "high": 1}, "expected low below high"),
        ({"low": 0, "high": 1, "log": True}, "above 0 where log = true"),
        ({"choices": [1, 2], "log": True}, "expected one or the other"),
        ({"low": 1, "hihg": 2}, "unknown key: did you mean high"),
    ],
)
def test_a_wrong_range_is_named(given, message):
    with pytest.raises(UserError, match=message):
        plan(agent={"ewc": {"search": {"method.strength": given}}})


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        (
            {"method.strength": {"low": 1.0, "high": 2.0}, "ppo.discount": {"low": 0.5, "high": 1.5}},
            ["ppo.discount=1.5"],
        ),
        ({"ppo.discount": {"low": -0.5, "high": 0.9}}, ["ppo.discount=-0.5"]),
        (
            {
                "method.fisher_expectation": {"choices": ["sampled", "exactly"]},
                "ppo.epochs": {"choices": [1, 2, 0, -3]},
            },
            ["method.fisher_expectation", "ppo.epochs=0", "ppo.epochs=-3"],
        ),
    ],
)
def test_every_choice_and_both_ends_of_a_range_are_checked_before_anything_is_written(given, wrong, tmp_path):
    with pytest.raises(UserError) as error:
        Search(plan(agent={"ewc": {"search": given}}), tmp_path / "x").examples()
    lines = str(error.value).removeprefix(f"{len(wrong)} problems:").strip().splitlines()
    assert len(lines) == len(wrong)
    for line, key in zip(lines, wrong, strict=True):
        assert line.strip().startswith(f"--set {key}")


def test_what_a_search_needs_is_that_of_all_examples(tmp_path):
    ranges = {"method.strength": RANGE, "ppo.epochs": {"choices": [1, 2]}}
    names = list(Search(plan(agent={"ewc": {"search": ranges}}), tmp_path / "x").examples().settings)
    start = NAME.partition("strength")[0]
    assert names == [f"{start}strength={one}-epochs={epochs}" for one, epochs in ((1.0, 1), (100.0, 1), (1.0, 2))]


def test_suggestions_that_a_recipe_refuses_are_not_written(tmp_path):
    with pytest.raises(UserError, match=r"method\.strength=-3\.0"):
        search(tmp_path / "x", Suggested(-3.0), trials=1)
    assert not (tmp_path / "x").exists()
    search(tmp_path / "y", Suggested(10.0), trials=1)
    before = (tmp_path / "y" / "search.json").read_text()
    with pytest.raises(UserError, match=r"method\.strength=-3\.0"):
        search(tmp_path / "y", Suggested(-3.0), trials=2)
    assert (tmp_path / "y" / "search.json").read_text() == before


class UnusableEngine(ScoringEngine):
    """Cannot run here."""

    def __enter__(self):
        raise UserError("no node of the cluster has room")


def test_a_search_whose_engine_cannot_run_says_why_and_leaves_nothing(tmp_path):
    with pytest.raises(UserError, match="no node of the cluster has room"):
        Search(plan(), tmp_path / "x").run(UnusableEngine(), Suggested(10.0), trials=1, places=2, retries=0)
    assert not (tmp_path / "x").exists()


def test_options_of_a_search_are_checked_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sweep = ["sweep", "--agents", "ewc", "--games", "cartpole4", "--seeds", "0", "--out", "x"]
    monkeypatch.setattr(optuna_sampler, "check_installed", lambda: None)
    for more, message in (
        (["--trials", "3"], "--trials 3 without --search"),
        (["--search", "optuna", "--engine", "slurm"], "--search with --engine slurm"),
        (["--search", "optuna", "--dry-run"], "--search with --dry-run"),
        (["--search", "optuna", "--trials", "0"], "--trials 0: expected a whole number from 1 to 10,000"),
        (["--search", "optuna"], "--search without ranges"),
    ):
        result = CliRunner().invoke(cli, [*sweep, *more])
        assert (result.exit_code, message in result.stderr) == (2, True), result.output
    assert list(tmp_path.iterdir()) == []


def test_without_optuna_the_message_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UserError, match=r"--search optuna needs Optuna, which is not installed: .*pip install"):
        optuna_sampler.check_installed()


def test_optuna_suggests_the_same_for_the_same_trials_within_the_ranges():
    pytest.importorskip("optuna")
    ranges = {
        "a": Range(low=1.0, high=1e4, log=True), "b": Range(low=1, high=5), "c": Range(choices=("x", True)),
    }  # fmt: skip
    tried = []
    for number in range(12):
        (values,) = optuna_sampler.suggest(ranges, tried, 1)
        assert optuna_sampler.suggest(ranges, tried, 1) == [values]
        assert 1 <= values["a"] <= 1e4
        assert values["a"] == float(f"{values['a']:.4g}")
        assert values["b"] in range(1, 6)
        assert values["c"] in ("x", True)
        tried.append((values, None if number == 3 else -abs(values["b"] - 4)))
    several = optuna_sampler.suggest(ranges, tried, 3)
    assert len({one["a"] for one in several}) == 3
