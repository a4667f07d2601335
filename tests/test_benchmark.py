"""Each benchmark runs as a user runs it, on problems that take seconds; computed figures are checked by hand."""

import json
import statistics
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

from blip_rl.recipes import resolve

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"
MEMORY_IS_KNOWN = Path("/proc/self/status").exists()
CHANGES = ["ppo.environments=2", "ppo.epochs=1", "trunk.image.conv=[[4,8,8]]", "trunk.image.hidden=[16]"]
TINY = ["--repeats", "2", "--threads", "1", *(part for change in CHANGES for part in ("--set", change))]
SHORT = ["--set", "ppo.rollout_steps=4", "--set", "ppo.minibatches=2"]


@pytest.fixture
def _scripts(monkeypatch, tmp_path):
    """The modules of the scripts can be imported; the working directory is empty."""
    monkeypatch.syspath_prepend(SCRIPTS)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def benchmark(_scripts, monkeypatch, capsys):
    """Run the script in this process; return its results, or exit code and message if it refuses."""
    import benchmark

    def run(*options):
        # With its path: it starts itself again to measure memory.
        monkeypatch.setattr(sys, "argv", [str(SCRIPTS / "benchmark.py"), *options, "--out", "results.json"])
        try:
            benchmark.main()
        except SystemExit as end:
            return end.code, capsys.readouterr().err
        return json.loads(Path("results.json").read_text(encoding="utf-8"))

    return run


def test_speed_compares_agents_with_stable_baselines3_and_with_the_limits(benchmark):
    """The median of two rounds is also their mean."""
    results = benchmark("speed", "--rivals", "stock", "--agents", "blip", *TINY, *SHORT)
    assert results["command"].startswith("python scripts/benchmark.py speed ")
    assert results["machine"]["torch_threads"] == 1
    contestants = results["contestants"]
    assert list(contestants) == ["stock", "finetune", "blip"]  # fine-tuning is what the others are compared with
    speeds = {name: found["steps_per_second_all"] for name, found in contestants.items()}
    limits = {name: found["steps_per_second_all"] for name, found in results["limits"].items()}
    for name, found in contestants.items():
        assert found["steps_per_second"] == statistics.mean(speeds[name]) > 0
        assert found["ratio_to_stock"] == pytest.approx(np.mean(np.array(speeds[name]) / speeds["stock"]))
        for limit, percent in found["percent_of_limit"].items():
            assert percent == pytest.approx(100 * np.mean(np.array(speeds[name]) / limits[limit]))
        assert found["peak_rss_mb"] > 50 if MEMORY_IS_KNOWN else found["peak_rss_mb"] is None
    # BLIP: frozen bits 1, centre 4, Fisher 4, remainder 4.
    assert [found["state_bytes_per_parameter"] for found in contestants.values()] == [None, 0, 13]
    for parts in results["shares"].values():
        assert sum(parts.values()) == pytest.approx(1)
        assert min(parts[name] for name in ("emulator", "inference", "optimizer")) > 0


@pytest.mark.usefixtures("_scripts")
def test_limits_of_a_round_by_hand():
    """A step of 1, 3 and 4 ms: 125 steps a second one after another, 250 side by side."""
    from _benchmark.contestants import Lap
    from _benchmark.stages import limits

    found = limits(Lap(100, 0.1, 0, 0), Lap(50, 0.15, 0, 0), Lap(10, 1.0, 0, 0.04))
    assert list(found.values()) == pytest.approx([1000, 1000 / 3, 250, 125, 250])


@pytest.mark.usefixtures("_scripts")
def test_stages_of_an_agent_with_environment_groups_are_timed():
    from _benchmark import contestants, stages

    changes = [*CHANGES, "ppo.rollout_steps=4", "ppo.minibatches=2", "compute.environment_groups=2"]
    config = resolve("boxing", "finetune", device="cpu", overrides=changes)
    with ExitStack() as stack:
        plain = contestants.build_ours(config, stack, tasks=0)
        found = stages.shares(plain, 1)
        assert min(found[name] for name in ("emulator", "inference", "update: forward and backward")) > 0
        alone = stages.open_stages(config, plain, stack)
        assert alone.emulate(2).steps == alone.infer(2).steps == 16


class Pool:
    """Two games of EnvPool: every second decision game 1 ends; frames count decisions since a game's beginning."""

    observation_space, action_space = Box(0, 255, (1,), np.uint8), Discrete(3)

    def reset(self, indices=(0, 1)):
        self.age = getattr(self, "age", np.zeros(2, np.uint8))
        self.age[list(indices)] = 0
        return self.age[list(indices), None].copy(), {}

    def send(self, actions):
        self.age += 1

    def recv(self):
        ended = np.array([False, self.age[1] == 2])
        return self.age[:, None].copy(), np.ones(2, np.float32), ended, np.zeros(2, bool), {}


@pytest.mark.usefixtures("_scripts")
def test_games_of_envpool_are_reset_within_the_step():
    from _benchmark.pool import EnvPoolVecEnv

    env = EnvPoolVecEnv(Pool(), 2)
    assert env.reset().tolist() == [[0], [0]]
    seen = [env.step(np.zeros(2, np.int64)) for _ in range(3)]
    assert [observations.ravel().tolist() for observations, *_ in seen] == [[1, 1], [2, 0], [3, 1]]
    assert seen[1][3] == [{}, {"terminal_observation": [2], "TimeLimit.truncated": False}]


@pytest.mark.parametrize(
    ("options", "values"),
    [
        (["environments", "--values", "2", "4", "--iteration-steps", "16", "--no-memory"], [2, 4]),
        (["tasks", "--values", "1", "3", "--iteration-steps", "16"], [1, 3]),
        (["widths", "--values", "1", "3", "--agents", "finetune", "--no-memory", "--iteration-steps", "16"], [1, 3]),
    ],
    ids=lambda options: options[0] if isinstance(options[0], str) else "",
)
def test_cost_is_measured_as_one_number_grows(options, values, benchmark):
    small, large = benchmark(*options, *TINY)["points"]
    assert [small["value"], large["value"]] == values
    if options[0] == "tasks":
        assert small["state_bytes"] == large["state_bytes"] == 13 * small["trunk_parameters"]
        assert large["task_bytes"] == 2 * small["task_bytes"]  # 4 heads against 2
    if options[0] == "widths":  # 4 frames of 84 × 84, kernel and stride 8: 10 × 10 positions; weights and biases
        expected = [(4 * w) * (4 * 64) + 4 * w + (16 * w) * (400 * w) + 16 * w for w in values]
        assert [small["trunk_parameters"], large["trunk_parameters"]] == expected


def test_cost_compares_pairs_of_steps(benchmark):
    (found,) = benchmark("cost", "--agents", "ewc", *TINY, "--repeats", "3", *SHORT)["costs"].values()
    (middle,) = found["step_slower_percent"]  # three pairs are too few for a bootstrap interval
    ratios = [other / plain for plain, other in found["pairs_seconds"]]
    assert middle == pytest.approx(100 * (statistics.median(ratios) - 1))
    assert len(ratios) == 3
    assert found["state_bytes_per_parameter"] == pytest.approx(12, abs=0.1)  # Fisher, anchor and slope


@pytest.mark.usefixtures("_scripts")
def test_cost_by_hand(monkeypatch):
    """The steps of one agent take 4 % longer, on a machine whose pace changes; who goes first alternates."""
    from _benchmark import cost

    order, pace = [], iter([1.0, 2.0] * 100)

    def steps(name):
        while True:
            order.append(name)
            if len(order) % 2:
                steps.pace = next(pace)
            yield steps.pace * {"plain": 1.0, "other": 1.04}[name]

    monkeypatch.setattr(cost, "_timed_steps", steps)
    found = cost._figures(cost._pairs("plain", "other", 20), 0.75)
    assert found["step_slower_percent"] == pytest.approx([4, 4, 4])
    assert found["training_slower_percent"] == pytest.approx([3, 3, 3])
    assert order[:6] == ["plain", "other", "other", "plain", "plain", "other"]


def test_profile_lists_the_operators_of_one_update(benchmark):
    found = benchmark("profile", "--agents", "finetune", "--rows", "5", *TINY, *SHORT)["operators"]["finetune"]
    calls = {operator["name"]: operator["calls"] for operator in found["operators"]}
    assert calls["aten::convolution_backward"] == 2  # one layer, two minibatches
    assert sum(operator["share"] for operator in found["operators"]) == pytest.approx(1)


def test_fisher_is_measured_in_a_process_of_its_own(benchmark):
    options = ["--values", "2", "--expectations", "exact", "--actions", "2", "--repeats", "1", "--threads", "1"]
    found = benchmark("fisher", *options)["fisher"]["exact:2"]
    assert found["trunk_parameters"] == 6_538_464
    if MEMORY_IS_KNOWN:  # at least the result itself, 4 bytes for each parameter
        assert found["extra_peak_mb"] > 4 * 6.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["speed", "--device", "cuda:99"], "--device cuda:99: "),
        (["speed", "--game", "CartPole-v1"], "expected an Atari game that stable-baselines3 can play"),
        (["tasks", "--set", "ppo.rolout_steps=4"], "did you mean"),
        (["environments", "--values", "7"], "and of the environments, 7"),
        (["fisher", "--values", "0"], "expected a whole number of at least 1"),
    ],
)
def test_invalid_options_are_refused(benchmark, options, message):
    code, error = benchmark(*options)
    assert code == 2
    assert message in error
    assert not Path("results.json").exists()


def test_startup_is_measured_for_every_command(tmp_path):
    options = ["--repeats", "1", "--threads", "1", "--games", "CartPole-v1", "--agent", "finetune", "--out", "x.json"]
    command = [sys.executable, SCRIPTS / "benchmark_startup.py", *options]
    subprocess.run(command, cwd=tmp_path, capture_output=True, check=True)
    commands = json.loads((tmp_path / "x.json").read_text(encoding="utf-8"))["commands"]
    (first_step,) = [title for title in commands if title.endswith("to its first step")]
    assert len(commands) == 8
    assert commands["blip-rl --help"]["processor_seconds"] < commands[first_step]["processor_seconds"] / 3
    assert not (tmp_path / "runs").exists()


def test_the_cost_of_logging_is_measured_part_by_part(tmp_path):
    changes = ["ppo.environments=2", "ppo.rollout_steps=32", "ppo.minibatches=2", "method.fisher_samples=8"]
    options = ["--game", "cartpole-a", "--steps", "128", "--threads", "1", "--out", "x.json"]
    options += [part for change in changes for part in ("--set", change)]
    command = [sys.executable, SCRIPTS / "benchmark_logging.py", *options]
    subprocess.run(command, cwd=tmp_path, capture_output=True, check=True)
    (run,) = json.loads((tmp_path / "x.json").read_text(encoding="utf-8"))["runs"]
    parts = run["seconds"]
    assert min(parts["scalars"], parts["heatmaps and histograms"]) > 0
    assert sum(parts.values()) == pytest.approx(2 * parts["all of it"])
    assert parts["all of it"] < run["total"]


def test_minatar_compares_both_ways_in_each_round(benchmark, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "seaborn", None)  # of the package's viewer; takes a second to import
    small = ["ppo.environments=2", "ppo.rollout_steps=8", "ppo.minibatches=2", "ppo.epochs=1", "trunk.image.hidden=[8]"]
    changes = [part for change in small for part in ("--set", change)]
    results = benchmark("minatar", "--steps", "32", "--repeats", "2", "--threads", "1", *changes)
    printed, games = capsys.readouterr().out, results["games"]
    assert [name.removeprefix("minatar-") for name in games] == [
        "breakout",
        "asterix",
        "freeway",
        "seaquest",
        "spaceinvaders",
    ]
    for name, found in games.items():
        ours, plain = (np.array(found["learned"][way]) for way in ("blip-rl", "Gymnasium"))
        assert ours.shape == plain.shape == (2,)
        assert f"| {np.median(plain):.0f} | {np.median(ours):.0f} | {np.median(ours / plain):.2f} |" in printed, name


def test_minatar_refuses_other_games(benchmark):
    code, errors = benchmark("minatar", "--sequence", "cartpole4")
    assert code == 2
    assert "CartPole-v1 is not a game of MinAtar" in errors
