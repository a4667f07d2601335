"""Tests of reports and inspections of malicious run folders: they succeed, or fail with a message."""

import json
import os
import struct
import time

import numpy as np
import pytest
from safetensors.numpy import save_file

from blip_rl.errors import UserError
from blip_rl.reporting.bits import load_bit_maps, load_budget
from blip_rl.reporting.checkpoints import Checkpoint
from blip_rl.reporting.inspection import inspect_run
from blip_rl.reporting.inspection_text import inspection_text
from blip_rl.reporting.page import write_report
from blip_rl.reporting.run_record import load_run
from blip_rl.reporting.table import load_plasticity
from blip_rl.untrusted import machine
from tests.reporting.report_runs import make_run

BITS = "stage,layer,parameter,frozen_bits,count\n"


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path / "run")


def stage(run, weights, kept, facts=None):
    """Write a checkpoint with these tensors."""
    folder = run / "checkpoints" / "stage-01"
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "policy.safetensors")
    save_file(kept, folder / "method.safetensors")
    (folder / "stage.json").write_text(json.dumps(facts or {"stage": 1, "method": {}}))
    return folder


@pytest.mark.parametrize(
    "row",
    ["1.5,fc1,weight,2,4", "0,fc1,weight,2,4", "1e15,fc1,weight,2,4", "1,fc1,weight,40,4", "1,fc1,weight,2,0"],
)
def test_rows_of_bits_out_of_range_are_skipped(run, row):
    (run / "bits.csv").write_text(f"{BITS}1,fc1,weight,3,8\n{row}\n")
    problems = []
    budget = load_budget(run, problems)
    assert budget.stages == (1,)
    assert budget.mean_frozen.tolist() == [[3.0]]
    assert "bits.csv: 1 of 2 rows skipped: truncated or damaged (line 3: " in problems[0]
    inspection_text(inspect_run(run))


def test_tables_with_too_many_layers_are_left_out(run):
    rows = "".join(f"{1 + n % 250},layer{n},weight,3,8\n" for n in range(20_000))
    (run / "bits.csv").write_text(BITS + rows)
    header = (run / "plasticity.csv").read_text().splitlines()[0]
    lines = "".join(f"1,1,after,layer{n},0.1,2,3,4\n" for n in range(20_000))
    (run / "plasticity.csv").write_text(f"{header}\n{lines}")
    problems = []
    assert load_budget(run, problems) is None
    assert load_plasticity(run, problems) == ()
    assert all("20,000 layers: expected at most 64" in problem for problem in problems)
    assert len(problems) == 2


@pytest.mark.parametrize("number", [float("inf"), 1e300, True, "1", 0, -4, 10**6, None])
def test_invalid_stage_numbers_are_refused(run, number):
    folder = stage(run, {"trunk.fc1.weight": np.ones((2, 2), np.float32)}, {}, {"stage": number, "method": {}})
    with pytest.raises(UserError, match=r"stage-01' cannot be read"):
        Checkpoint(folder)


@pytest.mark.parametrize(
    "weights", [np.ones((0, 3), np.float32), np.ones((2, 2), np.int64), np.ones((2, 2), np.float64)]
)
def test_checkpoint_without_a_float32_trunk_is_refused(run, weights):
    with pytest.raises(UserError, match="no trunk with float32 or float16 weights"):
        Checkpoint(stage(run, {"trunk.fc1.weight": weights}, {}))


def test_tensors_of_a_method_without_bits_are_not_read(run):
    config = run / "config.toml"
    config.write_text(config.read_text().replace('name = "blip"', 'name = "packnet"').replace("total_bits = 20", ""))
    owners = np.full((2, 2), 10**12, np.int64)  # counting them would take eight terabytes
    stage(run, {"trunk.fc1.weight": np.ones((2, 2), np.float32)}, {"fc1.weight.owner": owners})
    assert inspect_run(run).method_state == ("method state: 0.00 MB, tensors: 1 (after stage 1)",)


def test_tensor_larger_than_memory_is_refused_by_its_header(run, monkeypatch):
    monkeypatch.setattr(machine, "memory_bytes", lambda: 1_000)
    with pytest.raises(UserError, match=r"needs .* of memory"):
        Checkpoint(stage(run, {"trunk.fc1.weight": np.ones((50, 50), np.float32)}, {}))


def test_bit_maps_larger_than_memory_are_refused_by_their_header(run):
    name = b'{"a.weight.frozen_bits":{"dtype":"U8","shape":[1000000,1000000],"data_offsets":[0,1000000000000]}}'
    path = run / "checkpoints" / "stage-01" / "method.safetensors"
    path.write_bytes(struct.pack("<Q", len(name)) + name)
    with path.open("r+b") as file:
        file.truncate(8 + len(name) + 10**12)  # a hole: it takes no room on the disk
    problems = []
    maps = load_bit_maps(run, problems)
    assert {one.stage for one in maps} == {2, 3}
    assert "expected at most 64 that fit into memory" in problems[0]


def test_modification_time_out_of_range_is_accepted(run):
    os.utime(run / "scores.csv", (2**40, 2**40))
    assert load_run(run).changed.year >= 1970


@pytest.mark.parametrize("verb", [load_run, inspect_run])
def test_link_out_of_the_folder_is_refused(run, tmp_path, verb):
    (tmp_path / "outside").write_text("secret")
    (run / "command.txt").unlink()
    (run / "command.txt").symlink_to("../outside")
    with pytest.raises(UserError, match="leads out"):
        verb(run)


def test_pipe_is_refused_without_blocking(run):
    (run / "speed.csv").unlink()
    os.mkfifo(run / "speed.csv")
    begun = time.monotonic()
    with pytest.raises(UserError, match="pipe"):
        load_run(run)
    assert time.monotonic() - begun < 5


@pytest.mark.usefixtures("sketches")
def test_title_that_is_not_valid_unicode_is_escaped(run):
    page = write_report([run], title="caf\udce9").page.read_text(encoding="utf-8")
    assert "caf\\udce9" in page
