"""Tests of inspections: bits, forecast and audit, against hand-calculated values and the intervals of core.bits."""

import json
import math

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.numpy import save_file

from blip_rl import cli
from blip_rl.core import bits
from blip_rl.errors import UserError
from blip_rl.reporting import audit as audits
from blip_rl.reporting.inspection import forecast, inspect_run
from blip_rl.reporting.inspection_text import inspection_text

N = 20
LAYERS = {"conv1": (4, 2, 3, 3), "fc1": (6, 10)}
CONFIG = """agent_name = "blip-x"
[agent.method]
name = "{method}"
{settings}
[[tasks]]
name = "pong"
[[tasks]]
name = "boxing"
[[tasks]]
name = "krull"
"""


def bound_of(shape):
    return 6 / math.sqrt(max(shape[0], math.prod(shape[1:]))) if len(shape) > 1 else 1.0


def shapes():
    return {
        f"{layer}.{kind}": s if kind == "weight" else s[:1]
        for layer, s in LAYERS.items()
        for kind in ("weight", "bias")
    }


def write_stage(run, stage, weights, memory, values=None):
    path = run / "checkpoints" / f"stage-{stage:02d}"
    path.mkdir(parents=True)
    save_file({f"trunk.{name}": value for name, value in weights.items()}, path / "policy.safetensors")
    save_file(memory, path / "method.safetensors")
    values = {"total_bits": N} if values is None else values
    (path / "stage.json").write_text(json.dumps({"format": 1, "stage": stage, "method": values}))


def write_bits(run, stages):
    """Write ``bits.csv`` from a mapping of stage → layer → frozen bits of each weight."""
    lines = ["stage,layer,parameter,frozen_bits,count"]
    for stage, layers in stages.items():
        for layer, frozen in layers.items():
            lines += [f"{stage},{layer},weight,{b},{c}" for b, c in enumerate(np.bincount(frozen)) if c]
            lines.append(f"{stage},{layer},bias,20,7")  # must not count
    (run / "bits.csv").write_text("\n".join(lines) + "\n")


def new_run(tmp_path, method="blip", settings=f"total_bits = {N}"):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.toml").write_text(CONFIG.format(method=method, settings=settings))
    write_bits(run, {})
    return run


def frozen_stage(seed):
    """Weights, and intervals of core.bits that contain them."""
    generator = torch.Generator().manual_seed(seed)
    weights, memory = {}, {}
    for name, shape in shapes().items():
        bound = bound_of(shape)
        weight = (torch.rand(shape, generator=generator) * 2 - 1) * bound * 1.2
        weight = bits.quantize(weight, N, bound)
        frozen = torch.randint(0, N + 1, shape, generator=generator).to(torch.uint8)
        weights[name] = weight.numpy()
        memory[f"{name}.frozen_bits"] = frozen.numpy()
        memory[f"{name}.centre"] = bits.quantize(weight, frozen, bound).numpy()
    return weights, memory


def moved(memory, how, rule="paper"):
    """Return the weights that ``how(low, high, frozen bits, centre, bound)`` chooses for each parameter."""
    weights = {}
    for name, shape in shapes().items():
        centre, frozen = (torch.from_numpy(memory[f"{name}.{kind}"]) for kind in ("centre", "frozen_bits"))
        low, high = bits.interval(centre, frozen, bound_of(shape), N, rule)
        weights[name] = how(low, high, frozen, centre, bound_of(shape)).numpy()
    return weights


@pytest.fixture
def run_of_two(tmp_path):
    """Stages 1 and 2; in the second every weight is at an end of its first interval."""
    run = new_run(tmp_path)
    weights, memory = frozen_stage(0)
    write_stage(run, 1, weights, memory)
    write_stage(
        run, 2, moved(memory, lambda low, high, *_: torch.where(torch.rand(low.shape) < 0.5, low, high)), memory
    )
    write_bits(run, {1: {"conv1": [10, 12], "fc1": [0, 1, 2, 5]}, 2: {"conv1": [12, 14], "fc1": [4, 4, 4, 4]}})
    return run, memory


@pytest.mark.parametrize("rule", ["paper", "half"])
@pytest.mark.parametrize("total_bits", [8, 20])
@pytest.mark.parametrize("bound", [1.0, 6 / math.sqrt(6272), 6 / math.sqrt(18)])
def test_intervals_and_frozen_bits_equal_those_of_core_bits(total_bits, bound, rule):
    generator = torch.Generator().manual_seed(1)
    weight = (torch.rand(5_000, generator=generator) * 2 - 1) * bound * 1.1
    frozen = torch.randint(0, total_bits + 1, weight.shape, generator=generator).to(torch.uint8)
    centre = bits.quantize(weight, frozen, bound)
    if rule == "half":  # some of them half intervals, as nesting makes them
        later = (frozen + 2).clamp(max=total_bits)
        at_the_end = bits.interval(centre, frozen, bound, total_bits, "half")[1]
        centre, frozen = bits.nested_centre(at_the_end, later, centre, frozen, bound, total_bits, "half"), later
        assert (bits.quantize(centre, frozen, bound) != centre).any()
    low, high = bits.interval(centre, frozen, bound, total_bits, rule)
    found = audits.interval(centre.numpy(), frozen.numpy(), bound, total_bits, rule == "half")
    kept = audits.first_bits(weight.numpy(), frozen.numpy(), bound) * np.float32(bound)
    np.testing.assert_array_equal(kept, bits.quantize(weight, frozen, bound).numpy())
    assert found.low.dtype == np.float32
    np.testing.assert_array_equal(found.low, low.numpy())
    np.testing.assert_array_equal(found.high, high.numpy())


@pytest.mark.parametrize(
    ("value", "centre", "frozen", "outside", "radii"),
    [
        (0.25 + 1 / 16, 0.25, 4, 0, 0.0),  # with 4 frozen bits the radius is 1/16
        (0.25 + 1.5 / 16, 0.25, 4, 1, 1.5),
        (0.25 - 3 / 16, 0.25, 4, 1, 3.0),
        (math.nan, 0.25, 4, 1, math.inf),
        (5.0, 0.0, 0, 0, 0.0),  # no frozen bit: no interval
        (0.5, 0.5, N, 0, 0.0),  # no free bit: a single value
        (0.5 + 2.0**-N, 0.5, N, 1, 1.0),
    ],
)
def test_distance_of_a_weight_from_its_centre(value, centre, frozen, outside, radii):
    made = audits.interval(np.array([centre], np.float32), np.array([frozen], np.uint8), 1.0, N)
    assert audits.compare(made, np.array([value], np.float32)) == (outside, radii)


def test_weights_at_the_ends_of_the_papers_intervals_are_inside_with_changed_bits(run_of_two):
    run, memory = run_of_two
    found = inspect_run(run).audit
    assert found.stages == (1, 2)
    assert found.parameters == 4 * 18 + 4 + 6 * 10 + 6
    (moved_,) = found.pairs
    frozen = np.concatenate([memory[f"{name}.frozen_bits"].ravel() for name in shapes()])
    assert (moved_.earlier, moved_.later, moved_.left, moved_.furthest) == (1, 2, 0, 0)
    assert moved_.frozen == np.count_nonzero(frozen)
    partly = np.count_nonzero((frozen > 0) & (frozen < N))
    assert 0.6 * partly < moved_.changed <= partly  # where the range or rounding does not stop it before
    text = inspection_text(inspect_run(run))
    assert "every weight is inside the intervals" in text
    assert f"{moved_.changed:,}" in text
    assert "flip" not in text


@pytest.mark.parametrize("end", [0, 1])
def test_weights_at_the_ends_of_half_intervals_keep_their_bits(tmp_path, end):
    run = new_run(tmp_path, settings=f'total_bits = {N}\ninterval = "half"')
    weights, memory = frozen_stage(0)
    write_stage(run, 1, weights, memory)
    write_stage(run, 2, moved(memory, lambda *ends: ends[end], "half"), memory)
    (found,) = inspect_run(run).audit.pairs
    assert (found.left, found.changed) == (0, 0)
    assert "no frozen bit changed" in inspection_text(inspect_run(run))
    write_stage(run, 3, moved(memory, lambda *ends: ends[end]), memory)  # the paper's interval, twice as wide
    wide = inspect_run(run).audit.pairs[1]
    assert (wide.earlier, wide.later) == (1, 3)
    assert wide.left > 100
    assert wide.changed > 100
    assert "weights OUTSIDE their interval" in inspection_text(inspect_run(run))


def test_nan_weight_with_frozen_bits_is_outside(run_of_two):
    run, memory = run_of_two
    write_stage(run, 3, {n: np.full(s, np.nan, np.float32) for n, s in shapes().items()}, memory)
    found = inspect_run(run).audit.pairs[1]
    assert found.left == found.changed == found.frozen > 0


def test_every_weight_outside_its_interval_is_counted(run_of_two):
    run, memory = run_of_two

    def outside(low, high, frozen, centre, bound):
        step = bound * 2.0**-N
        return torch.where(centre > 0, low - step, high + step)

    write_stage(run, 3, moved(memory, outside), memory)
    frozen = np.concatenate([memory[f"{name}.frozen_bits"].ravel() for name in shapes()])
    pairs = {(p.earlier, p.later): p for p in inspect_run(run).audit.pairs}
    assert list(pairs) == [(1, 2), (1, 3), (2, 3)]
    assert pairs[1, 2].left == 0
    assert pairs[1, 3].left == pairs[2, 3].left == np.count_nonzero(frozen)
    assert 1 <= pairs[1, 3].furthest < 2.01


def test_bounds_follow_the_recipe(tmp_path):
    run = new_run(tmp_path, settings=f'total_bits = {N}\nweight_bound = "unit"')
    memory = {
        f"{n}.{k}": np.full(s, v, t)
        for n, s in shapes().items()
        for k, v, t in (("frozen_bits", 2, np.uint8), ("centre", 0.5, np.float32))
    }
    write_stage(run, 1, {n: np.full(s, 0.5, np.float32) for n, s in shapes().items()}, memory)
    write_stage(run, 2, {n: np.full(s, 0.75, np.float32) for n, s in shapes().items()}, memory)  # b = 1: the very end
    assert inspect_run(run).audit.pairs[0].left == 0
    write_stage(run, 3, {n: np.full(s, 0.76, np.float32) for n, s in shapes().items()}, memory)
    assert inspect_run(run).audit.pairs[1].left == 4 * 18 + 4 + 6 * 10 + 6


def test_frozen_and_free_bits_are_means_over_weights(run_of_two):
    found = inspect_run(run_of_two[0])
    layers = {bits_.layer: bits_ for bits_ in found.layers}
    assert list(layers) == ["conv1", "fc1", "trunk"]
    assert layers["conv1"].frozen == (11, 13)
    assert layers["fc1"].free == (18, 16)
    assert layers["trunk"].frozen == (30 / 6, 42 / 6)
    assert layers["trunk"].weights == 6
    assert found.problems == ()


@pytest.mark.parametrize(
    ("free", "stages", "kept", "full_after"),
    [
        ([16.0, 8.0], [1, 2], 0.5, 6),  # 8, 4, 2, 1, ½: exactly 1 free bit is not full yet
        ([10.0], [1], 0.5, 5),  # the first task counts only if it is the only one
        ([2.0, 1.9], [1, 2], 0.95, 15),
        ([10.0, 10.0, 8.0, 4.0, 2.0], [1, 2, 3, 4, 5], (0.8 * 0.5 * 0.5) ** (1 / 3), 7),  # the last three ratios
        ([16.0, 4.0], [1, 3], 0.5, 6),  # a missing stage counts as a task
        ([20.0, 20.0], [1, 2], 1.0, None),
        ([5.0, 0.9], [1, 2], 0.18, 2),
        ([0.0, 0.0], [1, 2], 1.0, 2),
    ],
)
def test_forecast_of_a_layers_free_bits(free, stages, kept, full_after):
    found = forecast(free, stages, 20)
    assert found.kept_per_task == pytest.approx(kept)
    assert found.full_after_task == full_after


def test_forecast_names_the_first_layer_to_fill_up(run_of_two):
    # conv1: 9 → 7 free, 7/9 stays: 7·(7/9)ⁿ < 1 for n = 8; fc1 18 → 16: n = 24.
    found = inspect_run(run_of_two[0])
    assert found.full_next.layer == "conv1"
    assert found.full_next.forecast.full_after_task == 2 + 8
    text = inspection_text(found)
    assert "8 more tasks until conv1" in text
    assert "after task 26" in text
    assert "every weight is inside the intervals" in text


def with_information(run, stage, shares, first_task=None):
    path = run / "checkpoints" / f"stage-{stage:02d}" / "stage.json"
    facts = json.loads(path.read_text())
    facts["method"] |= {"without_information": shares, "first_task": first_task}
    path.write_text(json.dumps(facts))


FIRST = {"prior": 2.5e-16, "informed_bits": 3.99, "bits": 0.93, "drift": 0.00999, "informed": 1519}


def test_share_of_weights_without_information_is_given_for_each_layer(run_of_two):
    run, _ = run_of_two
    with_information(run, 1, {"conv1.weight": 0.25, "conv1.bias": 1.0, "fc1.weight": 0.8}, FIRST)
    with_information(run, 2, {"conv1.weight": 0.0, "fc1.weight": 0.5}, FIRST)
    found = inspect_run(run)
    layers = {one.layer: one.without_information for one in found.layers}
    assert layers == {
        "conv1": (0.25, 0.0),
        "fc1": (0.8, 0.5),
        "trunk": pytest.approx(((2 * 0.25 + 4 * 0.8) / 6, (4 * 0.5) / 6)),
    }
    assert (found.first_task.prior, found.first_task.drift) == (2.5e-16, 0.00999)
    text = inspection_text(found)
    assert "weights without any Fisher information" in text
    (row,) = [line for line in text.splitlines() if line.split()[:2] == ["fc1", "80.0%"]]
    assert row.split() == ["fc1", "80.0%", "50.0%"]
    assert "prior 2.5e-16: the first task froze 3.99 bits" in text
    assert "0.00999 nats" in text


@pytest.mark.parametrize(
    ("shares", "first"),
    [
        (3, "x"),
        ({"fc1.weight": "much"}, None),
        ({"fc1.weight": 7}, None),
        ({"fc1.weight": True}, None),
        ([0.5], None),
        (None, {"prior": 1}),
        (None, dict(FIRST, drift=math.inf)),
        (None, dict(FIRST, bits=None)),
    ],
)
def test_invalid_information_is_left_out(run_of_two, shares, first):
    run, _ = run_of_two
    with_information(run, 1, shares, first)
    with_information(run, 2, {"fc1.weight": 0.5})
    found = inspect_run(run)
    assert found.first_task is None
    assert [str(share) for share in found.layers[1].without_information] == ["None", "0.5"]


def test_newest_plasticity_of_every_layer_is_shown(run_of_two):
    run, _ = run_of_two
    columns = "env_steps,stage,phase,layer,dormant_share,effective_rank,gradient_norm,free_bits\n"
    rows = "100,1,after,conv1,0.5,3.0,0.1,9\n200,2,periodic,conv1,0.25,4.5,0.2,9\n200,2,periodic,fc1,0.0,9.5,0.3,\n"
    (run / "plasticity.csv").write_text(columns + rows + ",2,after,fc1,0,1,1,9\n300,2,per")  # still being written
    found = inspect_run(run)
    assert [(p.layer, p.env_steps, p.dormant_share) for p in found.plasticity] == [
        ("conv1", 200, 0.25),
        ("fc1", 200, 0),
    ]
    assert "step 200, while learning boxing" in inspection_text(found)
    assert len(found.problems) == 1
    assert "truncated" in found.problems[0]


@pytest.mark.parametrize("file", ["policy.safetensors", "method.safetensors", "stage.json"])
@pytest.mark.parametrize("damage", ["missing", "cut off", "rubbish"])
def test_damaged_checkpoint_is_named_and_left_out(run_of_two, file, damage):
    run, memory = run_of_two
    write_stage(run, 3, moved(memory, lambda low, *_: low), memory)
    path = run / "checkpoints" / "stage-02" / file
    content = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes(content[: len(content) // 2] if damage == "cut off" else b"\xff" * 100)
    found = inspect_run(run)
    assert found.audit.stages == (1, 3)
    assert [(p.earlier, p.later) for p in found.audit.pairs] == [(1, 3)]
    assert len(found.problems) == 1
    assert "stage-02" in found.problems[0]
    assert "stage-02" in inspection_text(found)


def test_checkpoint_of_another_network_is_left_out(run_of_two):
    run, _ = run_of_two
    write_stage(run, 3, {"fc1.weight": np.zeros((2, 2), np.float32)}, {})
    found = inspect_run(run)
    assert found.audit.stages == (1, 2)
    assert "other trunk shapes" in found.problems[0]


def test_checkpoint_with_too_many_frozen_bits_is_left_out(run_of_two):
    run, memory = run_of_two
    write_stage(
        run, 3, moved(memory, lambda low, *_: low), memory | {"fc1.bias.frozen_bits": np.full(6, N + 1, np.uint8)}
    )
    found = inspect_run(run)
    assert found.audit.stages == (1, 2)
    assert "stage 3" in found.problems[0]


def test_run_without_checkpoints(tmp_path):
    run = new_run(tmp_path)
    found = inspect_run(run)
    assert (found.layers, found.audit, found.problems, found.full_next) == ((), None, (), None)
    text = inspection_text(found)
    assert "no bits frozen yet" in text
    assert "no stage checkpoint" in text


def test_incomplete_stage_is_left_out(run_of_two):
    run, _ = run_of_two
    with (run / "bits.csv").open("a") as file:
        file.write("3,conv1,weight,15,2\n")
    assert inspect_run(run).stages == (1, 2)
    with (run / "bits.csv").open("a") as file:
        file.write("3,fc1,weight,15,3\n")  # of four weights
    assert inspect_run(run).stages == (1, 2)
    with (run / "bits.csv").open("a") as file:
        file.write("3,fc1,weight,19,1\n")
    found = inspect_run(run)
    assert found.stages == (1, 2, 3)
    assert [bits_.frozen[-1] for bits_ in found.layers] == [15, 16, 94 / 6]


def test_duplicate_rows_count_once(run_of_two):
    run, _ = run_of_two
    once = inspect_run(run)
    rows = (run / "bits.csv").read_text().splitlines()
    (run / "bits.csv").write_text("\n".join([*rows, *rows[1:]]) + "\n")
    assert inspect_run(run).layers == once.layers


def test_methods_description_of_its_state_is_shown(tmp_path):
    run = new_run(tmp_path, "packnet", "tasks = 4")
    owners = {"fc1.weight.owner": np.array([[0, 0, 1, 1], [1, 1, 2, 2]], np.uint8)}
    write_stage(run, 2, {"fc1.weight": np.zeros((2, 4), np.float32)}, owners, {"tasks_seen": 2})
    facts = run / "checkpoints" / "stage-02" / "stage.json"
    change = json.loads(facts.read_text()) | {"description": ["weights owned: task 1 50.0%", "x" * 1000]}
    facts.write_text(json.dumps(change))
    text = inspection_text(inspect_run(run))
    assert "this method (packnet) freezes no bits" in text
    assert "weights owned: task 1 50.0% (after stage 2)" in text
    assert "x" * 300 in text
    assert "x" * 301 not in text
    facts.write_text(json.dumps(change | {"description": None}))  # as an earlier version wrote it
    assert "method state: 0.00 MB, tensors: 1 (after stage 2)" in inspection_text(inspect_run(run))
    facts.write_text(json.dumps(change | {"description": 7}))
    assert "stage.json: description = '7': Input should be a valid list" in inspection_text(inspect_run(run))


@pytest.mark.parametrize("content", [None, "agent_name = ", "x = 1\n", "agent_name = 'a'\nagent = 3\ntasks = 1\n"])
def test_folder_without_a_valid_config_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "config.toml").write_text(content)
    with pytest.raises(UserError, match=r"config\.toml"):
        inspect_run(tmp_path)


def test_command_prints_text_or_json(run_of_two):
    run, memory = run_of_two
    nan = moved(memory, lambda low, *_: low) | {"fc1.bias": np.full(6, np.nan, np.float32)}
    write_stage(run, 3, nan, memory)
    text = CliRunner().invoke(cli.cli, ["inspect", str(run)])
    assert text.exit_code == 0
    assert "information" not in text.output  # as in a run of an early version, which did not record it
    assert "weights OUTSIDE their interval" in text.output
    shown = CliRunner().invoke(cli.cli, ["inspect", str(run), "--json"])
    found = json.loads(shown.output, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert found["audit"]["pairs"][1]["furthest"] is None
    assert found["layers"][0]["frozen"] == [11, 13]
    assert "free bit" in found["forecast_rule"]
