"""The engine ``slurm`` with stand-ins of ``sbatch``, ``scontrol`` and ``squeue`` on PATH."""

import os
import subprocess
import sys

import pytest

from blip_rl.errors import RunError, UserError
from blip_rl.recipes import parse_run_config
from blip_rl.run.train import train
from blip_rl.sweeps.estimate import check_settings
from blip_rl.sweeps.manifest import save_manifest
from blip_rl.sweeps.slurm import submit_sweep
from tests.run.broken_off import CARTPOLES, assert_equal
from tests.sweeps.small_sweeps import small_manifest

# Runs every element of the array at once, each until it is not requeued. The first one is signalled as soon as there is
# a file $BEGUN, as before its time limit.
SBATCH = """#!/bin/bash
script=${@: -1}
cp "$script" submitted.sh
last=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\).*/\\1/p' "$script")
export SLURM_ARRAY_JOB_ID=7
for index in $(seq 0 "$last"); do
  export SLURM_ARRAY_TASK_ID=$index
  touch requeued
  while [ -e requeued ]; do
    rm requeued
    bash "$script" >>slurm.out 2>&1 &
    if [ ! -e signalled ]; then
      until compgen -G "$BEGUN" >/dev/null; do sleep 0.01; done
      touch signalled
      kill -USR1 $!
    fi
    wait $!
    echo "$index ended with $?" >>ended
  done
done
echo 7
"""
SCONTROL = """#!/bin/bash
echo "$@" >>scontrol.log
touch requeued
"""


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """Write programs to a folder on PATH; there is no Slurm beside them."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    def write(**scripts):
        for name, text in scripts.items():
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)

    return write


def submit(folder, manifest, **options):
    given = {"jobs": None, "options": ()} | options
    submit_sweep(folder, manifest, check_settings(manifest, here=False), **given)


# Instead of Python: a run that is saved and stopped by the first signal, and finished the second time.
TASK = """#!/bin/bash
echo "$@" >>calls
[ -e saved ] && exit 0
trap 'touch saved; exit 75' USR1
touch begun
while :; do sleep 0.01; done
"""


def test_an_element_that_is_signalled_is_requeued_and_the_others_run_once(programs, tmp_path, monkeypatch):
    programs(sbatch=SBATCH, scontrol=SCONTROL, task=TASK)
    monkeypatch.setenv("BEGUN", "begun")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "task"))
    manifest = small_manifest(seeds="0-1")
    submit(tmp_path / "x", manifest)
    assert (tmp_path / "scontrol.log").read_text() == "requeue 7_0\n"
    first, second = (f"-P -m blip_rl.sweeps.task {tmp_path / 'x'} {run.name}" for run in manifest.runs)
    assert (tmp_path / "calls").read_text().splitlines() == [first, first, second]
    assert (tmp_path / "ended").read_text().splitlines() == ["0 ended with 0"] * 2 + ["1 ended with 0"]


def test_an_element_that_fails_has_its_exit_code_and_is_not_requeued(programs, tmp_path, monkeypatch):
    programs(sbatch=SBATCH, scontrol=SCONTROL, task="#!/bin/sh\nexit 1\n")
    (tmp_path / "signalled").touch()
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "task"))
    submit(tmp_path / "x", small_manifest())
    assert (tmp_path / "ended").read_text() == "0 ended with 1\n"
    assert not (tmp_path / "scontrol.log").exists()


@pytest.mark.slow
def test_an_array_ends_like_the_run_alone(programs, tmp_path, capsys, monkeypatch):
    programs(sbatch=SBATCH, scontrol=SCONTROL)
    monkeypatch.setenv("BEGUN", "x/*/checkpoints/step-*")
    manifest = small_manifest((*CARTPOLES, "checkpoint.every_steps=128"))
    submit(tmp_path / "x", manifest)
    assert "submitted" in capsys.readouterr().out
    assert (tmp_path / "scontrol.log").read_text() == "requeue 7_0\n"
    (job,) = manifest.jobs(tmp_path / "x")
    assert_equal(job.path, train(parse_run_config(job.recipe, job.name), out=tmp_path / "alone", threads=1, quiet=True))
    assert "SIGUSR1: stopping after this update" in job.log.read_text()
    submit(tmp_path / "x", manifest)  # nothing is left
    assert "1 of them finished already" in capsys.readouterr().out
    assert (tmp_path / "ended").read_text() == "0 ended with 0\n" * 2


def test_without_sbatch_the_script_is_written_and_the_command_printed(programs, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    submit(tmp_path / "x", small_manifest(seeds="0-2"), jobs=2, options=["--partition=long", "--time=08:00:00"])
    script = tmp_path / "x" / "slurm-1.sh"
    assert f"sbatch --parsable {script}" in capsys.readouterr().out
    lines = script.read_text().splitlines()
    assert {"#SBATCH --array=0-2%2", "#SBATCH --requeue", "#SBATCH --signal=USR1@300"} <= set(lines)
    assert lines.index("#SBATCH --time=08:00:00") > lines.index("#SBATCH --time=04:00:00")  # the last one counts
    assert not any("gpus" in line for line in lines)
    assert subprocess.run(["/bin/bash", "-n", script]).returncode == 0


def sbatch_words(line):
    """Read a line as ``_get_argument`` of Slurm's src/sbatch/opt.c: a backslash is special in both kinds of quotes."""
    words, quote, characters = [""], "", iter(line.removeprefix("#SBATCH "))
    for one in characters:
        if one == "\\":
            words[-1] += next(characters)
        elif quote:
            quote, words[-1] = ("", words[-1]) if one == quote else (quote, words[-1] + one)
        elif one in "\"'":
            quote = one
        elif one == "#":
            break
        elif one.isspace():
            words.append("")
        else:
            words[-1] += one
    assert not quote, line
    return words


def test_paths_and_options_with_spaces_and_quotes_reach_sbatch_as_they_are(programs, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    folder = tmp_path / 'it\'s 100% "my" #1 sweep'
    comments = ["two words", 'it\'s "one"', 'back\\slash \\" #1', "a#b", "--x=y"]
    options = [*(f"--comment={comment}" for comment in comments), "-p long", "--partition long"]
    submit(folder, small_manifest(), options=options)
    lines = [line for line in (folder / "slurm-1.sh").read_text().splitlines() if line.startswith("#SBATCH")]
    words = [sbatch_words(line) for line in lines]
    output = f"--output={str(folder).replace('%', '%%')}/logs/slurm-%A_%a.out"  # %%: a percent sign in file names
    assert [output] in words
    assert words[-7:] == [*([f"--comment={comment}"] for comment in comments), ["-p", "long"], ["--partition", "long"]]
    assert subprocess.run(["/bin/bash", "-n", folder / "slurm-1.sh"]).returncode == 0


@pytest.mark.parametrize("name", ["a\\b", "a\nb"])
def test_a_path_that_slurm_cannot_take_is_refused(name, programs, tmp_path):
    with pytest.raises(UserError, match="expected a folder without backslash and line break"):
        submit(tmp_path / name, small_manifest())
    assert not (tmp_path / name).exists()


def test_a_gpu_is_asked_for_where_the_plan_says_so(programs, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    submit(tmp_path / "x", small_manifest(device="cuda"))
    assert "#SBATCH --gpus-per-task=1\n" in (tmp_path / "x" / "slurm-1.sh").read_text()


def test_more_runs_than_an_array_holds_become_several_arrays(programs, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    submit(tmp_path / "x", small_manifest(seeds="0-1000"))
    first, second = ((tmp_path / "x" / f"slurm-{number}.sh").read_text() for number in (1, 2))
    assert "#SBATCH --array=0-999\n" in first
    assert "#SBATCH --array=0-0\n" in second
    assert "seed1000\n" in second


def test_a_sweep_that_is_queued_is_not_submitted_again(programs, tmp_path):
    programs(sbatch="#!/bin/sh\nexit 1\n", squeue="#!/bin/sh\necho 12_[0-3]\n")
    with pytest.raises(UserError, match=r"in Slurm's queue already, as 12_\[0-3\].*scancel --name=blip-rl-"):
        submit(tmp_path / "x", small_manifest())
    assert not (tmp_path / "x").exists()


def test_what_sbatch_refuses_is_told(programs, tmp_path):
    programs(sbatch="#!/bin/sh\necho 'invalid partition specified: gpux' >&2\nexit 1\n")
    with pytest.raises(RunError, match=r"sbatch refused .*invalid partition specified: gpux"):
        submit(tmp_path / "x", small_manifest())


def test_a_run_that_left_the_plan_is_an_error_of_its_element(tmp_path):
    save_manifest(tmp_path, small_manifest())
    command = [sys.executable, "-m", "blip_rl.sweeps.task", tmp_path, "gone-seed3"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "gone-seed3 no longer belongs to the sweep" in done.stderr


def test_a_task_without_its_sweep_is_one_message_with_exit_code_2(tmp_path):
    command = [sys.executable, "-m", "blip_rl.sweeps.task", tmp_path / "gone", "x-seed3"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"Error: '{tmp_path / 'gone' / 'sweep.json'}' cannot be read: No such file or directory\n"
