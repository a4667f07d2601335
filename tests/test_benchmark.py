"""The benchmark runs as a user would run it, on problems that take seconds; what it makes of times, by hand."""

import json
import statistics
import subprocess
import sys
from collections import defaultdict
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
def parts(monkeypatch, tmp_path):
    """The modules behind the script, in an empty folder."""
    monkeypatch.syspath_prepend(SCRIPTS)
    monkeypatch.chdir(tmp_path)
    import _measure
    from _benchmark import contestants, pool, stages

    return _measure, contestants, pool, stages


@pytest.fixture
def benchmark(parts, monkeypatch, capsys):
    """Call the script: exit code, its results, what it printed, errors."""
    import benchmark

    def call(*options):
        # With its path, by which it starts itself again to measure memory.
        monkeypatch.setattr(sys, "argv", [str(SCRIPTS / "benchmark.py"), *options, "--out", "results.json"])
        code = 0
        try:
            benchmark.main()
        except SystemExit as end:
            code = end.code
        printed = capsys.readouterr()
        results = json.loads(Path("results.json").read_text(encoding="utf-8")) if code == 0 else None
        return code, results, printed.out, printed.err

    return call


def test_speed(benchmark):
    agents = ["--rivals", "stock", "--agents", "blip", "ewc"]
    code, results, printed, _ = benchmark("speed", *agents, *TINY, *SHORT)
    assert code == 0
    assert results["command"].startswith("python scripts/benchmark.py speed ")
    assert results["machine"]["torch_threads"] == 1
    assert results["machine"]["cpu"]
    contestants = results["contestants"]
    assert list(contestants) == ["stock", "finetune", "blip", "ewc"]  # fine-tuning is what the others are compared with
    for contestant in contestants.values():
        assert f"| {contestant['title']} | {contestant['steps_per_second']:.0f} |" in printed
        assert len(contestant["steps_per_second_all"]) == 2
        assert min(contestant["steps_per_second_all"]) > 0
        assert contestant["steps_per_second"] == statistics.median(contestant["steps_per_second_all"])
        assert contestant["cpu_seconds_per_1000_steps"] > 0
        assert 0 < contestant["update_share"] < 1
        assert contestant["peak_rss_mb"] > 50 if MEMORY_IS_KNOWN else contestant["peak_rss_mb"] is None
        assert contestant["gpu_peak_mb"] is None
    assert contestants["blip"]["consolidation"]["informed_bits"] == pytest.approx(4, abs=0.1)
    kept = {name: contestant["state_bytes_per_parameter"] for name, contestant in contestants.items()}
    # BLIP: frozen bits 1, centre 4, Fisher 4, remainder 4; EWC: Fisher, anchor and slope.
    assert kept == {"stock": None, "finetune": 0, "blip": 13, "ewc": 12}
    assert contestants["ewc"]["consolidation_seconds"] > 0
    _check_comparisons(results)
    _check_shares(results["shares"])


def _check_comparisons(results):
    """Of two rounds the median is also the mean."""
    speeds = {name: contestant["steps_per_second_all"] for name, contestant in results["contestants"].items()}
    limits = {name: limit["steps_per_second_all"] for name, limit in results["limits"].items()}
    alone = np.array([limits[f"{part} alone"] for part in ("emulator", "inference", "update")])
    assert limits["limit: one after another"] == pytest.approx(1 / (1 / alone).sum(0))
    assert limits["limit: side by side"] == pytest.approx(alone.min(0))
    for name, contestant in results["contestants"].items():
        ratios = [a / b for a, b in zip(speeds[name], speeds["stock"], strict=True)]
        assert contestant["ratio_to_stock"] == pytest.approx(statistics.mean(ratios))
        for limit, percent in contestant["percent_of_limit"].items():
            assert percent == pytest.approx(100 * np.mean(np.array(speeds[name]) / limits[limit]))
    longer = [a / b for a, b in zip(speeds["finetune"], speeds["blip"], strict=True)]
    assert results["contestants"]["blip"]["slowdown_percent"] == pytest.approx(100 * (statistics.mean(longer) - 1))


def _check_shares(found):
    assert list(found) == ["stock", "finetune", "blip", "ewc"]
    for parts in found.values():
        assert sum(parts.values()) == pytest.approx(1)
        assert min(parts.values()) >= 0
        assert min(parts[name] for name in ("emulator", "inference", "optimizer")) > 0
    assert found["blip"]["method, after each step"] > 10 * found["finetune"]["method, after each step"]


def test_limits_by_hand(parts):
    """A step of 1, 3 and 4 ms: 125 steps a second in turn, 250 side by side."""
    _, contestants, _, stages = parts
    lap = contestants.Lap
    found = stages.limits(lap(100, 0.1, 0, 0), lap(50, 0.15, 0, 0), lap(10, 1.0, 0, 0.04))
    assert list(found.values()) == pytest.approx([1000, 1000 / 3, 250, 125, 250])


def test_parts_are_found_where_groups_take_turns_and_where_inference_is_recorded(parts):
    """Also on the CPU, where a recording runs as it is."""
    _, contestants, _, stages = parts
    changes = [*CHANGES, "ppo.rollout_steps=4", "ppo.minibatches=2", "compute.environment_groups=2"]
    config = resolve("boxing", "finetune", device="cpu", overrides=changes)
    with ExitStack() as stack:
        plain = contestants.build_ours(config, stack, tasks=0)
        assert [where.stop for where in plain.agent.env.groups] == [1, 2]
        found = stages.shares(plain, 1)
        assert min(found[name] for name in ("emulator", "inference", "update: forward and backward")) > 0
        assert sum(found.values()) == pytest.approx(1)
        parts_alone = stages.open_stages(config, plain, stack)
        assert parts_alone.emulate(2).steps == parts_alone.infer(2).steps == 16
        for choose in (stages._plain_policy(parts_alone), stages._recorded_policy(parts_alone)):
            chosen = [choose(parts_alone.first_frames) for _ in range(40)]
            assert {tuple(actions.shape) for actions in chosen} == {(2,)}
            assert len({action for actions in chosen for action in actions.tolist()}) > 5  # of 18, drawn


def test_memory_of_one_alone_counts_worker_processes(benchmark):
    code, results, printed, _ = benchmark("speed", "--only", "stock-subproc", *TINY, *SHORT)
    assert code == 0
    assert "| stock-subproc | " in printed
    if MEMORY_IS_KNOWN:  # three processes, each with torch in it
        assert results["contestants"]["stock-subproc"]["peak_rss_mb"] > 300


def test_envpool_is_measured_or_said_to_be_missing(benchmark, parts, monkeypatch):
    _, _, pool, _ = parts
    monkeypatch.setattr(pool, "import_module", lambda name: (_ for _ in ()).throw(ImportError(f"No module {name}")))
    code, results, printed, _ = benchmark("speed", "--rivals", "envpool", "--no-memory", "--no-shares", *TINY, *SHORT)
    assert code == 0
    assert results["missing"] == {"envpool": "not measured: No module envpool (pip install envpool)"}
    assert "stable-baselines3 PPO over EnvPool: not measured: No module envpool" in printed
    assert results["contestants"]["finetune"]["ratio_to_stock"] is None


class Pool:
    """Two games of EnvPool: every second decision game 1 ends; frames count decisions since a game's beginning."""

    observation_space, action_space = Box(0, 255, (1,), np.uint8), Discrete(3)

    def reset(self, indices=(0, 1)):
        self.age = getattr(self, "age", np.zeros(2, np.uint8))
        self.age[list(indices)] = 0
        return self.age[list(indices), None].copy(), {}

    def send(self, actions):
        assert actions.dtype == np.int32
        self.age += 1

    def recv(self):
        ended = np.array([False, self.age[1] == 2])
        return self.age[:, None].copy(), np.ones(2, np.float32), ended, np.zeros(2, bool), {}


def test_envpools_games_begin_again_within_the_step(parts):
    _, _, pool, _ = parts
    env = pool.EnvPoolVecEnv(Pool(), 2)
    assert env.reset().tolist() == [[0], [0]]
    seen = [env.step(np.zeros(2, np.int64)) for _ in range(3)]
    assert [observations.ravel().tolist() for observations, *_ in seen] == [[1, 1], [2, 0], [3, 1]]
    assert [dones.tolist() for _, _, dones, _ in seen] == [[False, False], [False, True], [False, False]]
    assert seen[1][3] == [{}, {"terminal_observation": [2], "TimeLimit.truncated": False}]


def test_state_does_not_grow_with_tasks(benchmark):
    code, results, printed, _ = benchmark("tasks", "--values", "1", "3", "--iteration-steps", "16", *TINY)
    assert code == 0
    one, three = results["points"]
    assert (one["value"], three["value"]) == (1, 3)
    assert one["state_bytes"] == three["state_bytes"] == 13 * one["trunk_parameters"]
    assert three["task_bytes"] == 2 * one["task_bytes"]  # 4 heads against 2
    assert len(three["steps_per_second_all"]) == 2
    assert f"| blip | 3 | {three['steps_per_second']:.0f} |" in printed


def test_environments_grow_while_an_iteration_stays(benchmark, parts, monkeypatch):
    """The last point, and memory in a process of its own."""
    _, contestants, _, _ = parts
    iterations = []
    learn = contestants.Contestant.learn
    noting = lambda self, updates: iterations.append((self.agent.n_envs, self.agent.n_steps)) or learn(self, updates)  # noqa: E731
    monkeypatch.setattr(contestants.Contestant, "learn", noting)
    code, results, _, _ = benchmark("environments", "--values", "2", "4", "--iteration-steps", "16", *TINY)
    assert code == 0
    assert set(iterations) == {(2, 8), (4, 4)}
    assert [point["value"] for point in results["points"]] == [2, 4]
    assert all(point["peak_rss_mb"] > 50 for point in results["points"]) or not MEMORY_IS_KNOWN


def test_widths(benchmark):
    options = ["--values", "1", "3", "--agents", "finetune", "--no-memory", "--iteration-steps", "16"]
    code, results, _, _ = benchmark("widths", *options, *TINY)
    assert code == 0
    # 4 frames of 84 × 84, kernel and stride 8: 10 × 10 positions; weights and biases of both layers.
    expected = [(4 * w) * (4 * 64) + 4 * w + (16 * w) * (400 * w) + 16 * w for w in (1, 3)]
    assert [point["trunk_parameters"] for point in results["points"]] == expected


def test_cost_counts_pairs_of_steps(benchmark):
    code, results, printed, _ = benchmark("cost", "--agents", "blip", "ewc", *TINY, "--repeats", "6", *SHORT)
    assert code == 0
    assert list(results["costs"]) == ["blip", "ewc"]
    for found in results["costs"].values():
        ratios = [other / plain for plain, other in found["pairs_seconds"]]
        assert len(ratios) == 6
        (middle,) = found["step_slower_percent"]  # six pairs are too few for a bootstrap interval
        assert middle == pytest.approx(100 * (statistics.median(ratios) - 1))
        assert f"| {middle:+.1f} |" in printed
        assert 0 < found["update_share"] < 1
    assert printed.count("| 6 |") == 2
    assert results["costs"]["blip"]["state_bytes_per_parameter"] == pytest.approx(13, abs=0.1)
    assert results["costs"]["ewc"]["consolidation_seconds"] > 0


def test_cost_by_hand(parts, monkeypatch):
    """One agent's steps take 4 % longer, on a machine whose pace changes; who goes first alternates."""
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
    assert len(found["pairs_seconds"]) == 20
    assert found["step_slower_percent"] == pytest.approx([4, 4, 4])
    assert cost._interval(found["step_slower_percent"]) == "+4.0 (+4.0 to +4.0)"
    assert found["training_slower_percent"] == pytest.approx([3, 3, 3])
    assert order[:6] == ["plain", "other", "other", "plain", "plain", "other"]


def test_fisher(benchmark):
    options = ["--values", "2", "3", "--expectations", "exact", "--actions", "2", "--repeats", "2", "--threads", "1"]
    code, results, printed, _ = benchmark("fisher", *options)
    assert code == 0
    assert list(results["fisher"]) == ["exact:2", "exact:3"]
    for fisher in results["fisher"].values():
        assert f"| exact | {fisher['samples']} | {fisher['seconds']:.2f} |" in printed
        assert len(fisher["seconds_all"]) == 2
        assert fisher["trunk_parameters"] == 6_538_464
        if MEMORY_IS_KNOWN:  # at least the result itself, 4 bytes for each parameter
            assert fisher["extra_peak_mb"] > 4 * 6.5


def test_profile_names_operators(benchmark):
    code, results, printed, _ = benchmark("profile", "--agents", "finetune", "--rows", "5", *TINY, *SHORT)
    assert code == 0
    found = results["operators"]["finetune"]
    names = {operator["name"]: operator for operator in found["operators"]}
    assert names["aten::convolution_backward"]["calls"] == 2  # one layer, two minibatches
    assert sum(operator["share"] for operator in found["operators"]) == pytest.approx(1)
    assert found["operators"][0]["seconds"] >= found["operators"][1]["seconds"]
    assert f"| `{found['operators'][0]['name']}` |" in printed
    assert f"| {len(names) - 5} others |" in printed
    assert 0 < found["total_seconds"] <= found["profiled_update_seconds"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["speed", "--device", "cuda:99"], "--device cuda:99: "),
        (["speed", "--game", "CartPole-v1"], "expected an Atari game that stable-baselines3 can play"),
        (["speed", "--agents", "nosuch"], "unknown agent 'nosuch'"),
        (["tasks", "--set", "ppo.rolout_steps=4"], "did you mean"),
        (["widths", "--iteration-steps", "100"], "--iteration-steps 100: expected a multiple of 256"),
        (["environments", "--values", "7"], "and of the environments, 7"),
        (["fisher", "--values", "0"], "expected a whole number of at least 1"),
    ],
)
def test_what_cannot_work_is_refused(benchmark, options, message):
    code, _, _, errors = benchmark(*options)
    assert code == 2
    assert message in errors
    assert not Path("results.json").exists()


def test_the_clock_waits_before_each_look_and_leaves_no_trace(parts):
    measure, *_ = parts

    class Owner:
        def work(self):
            events.append("work")

    events, seconds, owner = [], defaultdict(float), Owner()
    with measure.timed(owner, "work", seconds, wait=lambda: events.append("wait")):
        with measure.timed(owner, "work", seconds, "inner"):
            owner.work()
        assert "work" in vars(owner)  # the first one still measures
    assert events == ["wait", "work", "wait"]
    assert seconds["inner"] >= seconds["work"] > 0  # wrapped last, it is the outer one
    assert vars(owner) == {}


@pytest.mark.skipif(not MEMORY_IS_KNOWN, reason="no /proc")
def test_processor_time_of_other_processes_counts(parts):
    measure, *_ = parts
    burn = "import time\nwhile time.process_time() < 0.3: pass\nprint('done', flush=True)\ninput()"
    with subprocess.Popen([sys.executable, "-c", burn], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout.readline() == b"done\n"
        alone = measure.cpu_seconds()
        assert 0.25 < measure.cpu_seconds([child.pid]) - alone < 1
        child.communicate(b"\n")
    assert measure.cpu_seconds([child.pid]) - measure.cpu_seconds() < 0.1
