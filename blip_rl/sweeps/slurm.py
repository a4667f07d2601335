"""The engine ``slurm``: a job array with an element for each run that is not finished; elements requeue themselves."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from blip_rl.errors import RunError, UserError
from blip_rl.shell import shell_command
from blip_rl.storage import atomic
from blip_rl.sweeps.estimate import Needs
from blip_rl.sweeps.folder import finished_runs, open_folder
from blip_rl.sweeps.manifest import LOGS, Manifest
from blip_rl.sweeps.run import opening_text
from blip_rl.sweeps.task import TO_BE_CONTINUED

_LARGEST_ARRAY = 1000
"""Slurm's default of ``MaxArraySize`` is 1001, and indices begin at 0."""
_MEGABYTE = 1_000_000
_ROOM = 2  # times the memory that a run needs at least

_BODY = f"""\
# Before the time limit Slurm sends a signal; the run saves itself, and the element is requeued until the run is
# finished. After a node failure or a preemption, Slurm requeues the element, which resumes from the last snapshot.
set -u
run=${{runs[$SLURM_ARRAY_TASK_ID]}}
launch=()
command -v srun >/dev/null && launch=(srun --ntasks=1)
"${{launch[@]}}" "${{task[@]}}" "$run" &
training=$!
# In the background, because bash runs traps only after a foreground command has ended. Without srun, or with
# --signal=B:USR1@300, the signal comes to this script and is passed on.
trap 'signalled=yes; kill -USR1 "$training"' USR1
trap 'signalled=yes; kill -TERM "$training"' TERM
signalled=yes
while [ "$signalled" ]; do # a signal ends the wait, not the training
  signalled=
  wait "$training"
  code=$?
done
case $code in
  {TO_BE_CONTINUED} | 138 | 143) # saved and stopped; or by SIGUSR1 or SIGTERM before there was anything to save
    scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}"
    ;;
  *) exit "$code" ;;
esac
"""


def submit_sweep(
    folder: Path, manifest: Manifest, needs: dict[str, Needs], *, jobs: int | None, options: Sequence[str]
) -> None:
    """Write array scripts for the runs that are not finished, and submit them if ``sbatch`` is there.

    Args:
        folder: The sweep's folder, on a file system that all nodes share.
        manifest: Its runs.
        needs: Of each setting: memory and device.
        jobs: Most runs at a time; None: as many as Slurm starts.
        options: Options of ``sbatch``, such as ``--partition=gpu``, which replace the script's.

    Raises:
        UserError: The folder is another sweep's, or the sweep is in Slurm's queue already.
        RunError: ``sbatch`` failed.
    """
    if any(not option.startswith("-") or "\n" in option for option in options):
        raise UserError(f"--slurm-option {list(options)}: expected options of sbatch, such as --partition=gpu")
    if any(character in str(folder.absolute()) for character in "\\\n"):
        raise UserError(
            f"{str(folder.absolute())!r}: expected a folder without backslash and line break in its path, which mean "
            "something else to Slurm (choose another --out)"
        )
    name = _job_name(folder)
    _check_not_queued(name)
    with open_folder(folder, manifest):
        done = finished_runs(folder, manifest)
        print(opening_text(folder, manifest, len(done)), flush=True)
        (folder / LOGS).mkdir(exist_ok=True)
        left = [run.name for run in manifest.runs if run.name not in done]
        for number, first in enumerate(range(0, len(left), _LARGEST_ARRAY), start=1):
            runs = left[first : first + _LARGEST_ARRAY]
            script = folder / f"slurm-{number}.sh"
            header = _header(name, folder, runs, manifest, needs, jobs)
            atomic.replace_text(script, array_script(folder, runs, [*header, *options]))
            _submit(script)
    print(f"compare  {shell_command('blip-rl', 'report', folder)}", flush=True)


def array_script(folder: Path, runs: Sequence[str], options: Sequence[str]) -> str:
    """Return a batch script that runs one element of an array: the run of that index."""
    # -P: a file such as random.py in the working directory must not be imported.
    task = [sys.executable, "-P", "-m", "blip_rl.sweeps.task", str(folder.absolute())]
    return "\n".join(
        [
            "#!/bin/bash",
            *(f"#SBATCH {_directive(option)}" for option in options),
            "",
            "runs=(",
            *(f"  {shell_command(run)}" for run in runs),
            ")",
            f"task=({shell_command(*task)})",
            _BODY,
        ]
    )


def _directive(option: str) -> str:
    """Return an option of sbatch as a script has it, where quotes hold words together.

    Unlike in a shell, a backslash is special in both kinds of quotes.
    """
    name, _, value = option.partition(" ")
    words = [name, value] if value and "=" not in name else [option]  # -p long; --comment=two words
    return " ".join(
        word if re.fullmatch(r"[A-Za-z0-9_@%+=:,./-]+", word) else '"' + re.sub(r'(["\\])', r"\\\1", word) + '"'
        for word in words
    )


def _header(
    name: str, folder: Path, runs: Sequence[str], manifest: Manifest, needs: dict[str, Needs], jobs: int | None
) -> Iterator[str]:
    """Yield options of sbatch; of two that are equal, the last counts."""
    yield f"--job-name={name}"
    yield f"--array=0-{len(runs) - 1}" + (f"%{jobs}" if jobs else "")
    yield f"--output={str(folder.absolute()).replace('%', '%%')}/{LOGS}/slurm-%A_%a.out"
    yield f"--cpus-per-task={manifest.threads}"
    yield f"--mem={_ROOM * max(one.resources.memory for one in needs.values()) // _MEGABYTE}M"
    if any(one.device.startswith("cuda") for one in needs.values()):
        yield "--gpus-per-task=1"
    yield from ("--ntasks=1", "--time=04:00:00", "--requeue", "--open-mode=append")
    yield "--signal=USR1@300"  # 5 minutes before the limit: enough for the update that is under way, and for saving


def _job_name(folder: Path) -> str:
    """Return a name by which Slurm knows the sweep in this folder."""
    return f"blip-rl-{hashlib.sha256(str(folder.absolute()).encode()).hexdigest()[:8]}"


def _check_not_queued(name: str) -> None:
    """Refuse a second array for the same runs."""
    if shutil.which("squeue") is None:
        return
    asked = subprocess.run(["squeue", "--noheader", "--name", name, "--format=%i"], capture_output=True, text=True)
    if found := asked.stdout.split():
        raise UserError(
            f"the sweep is in Slurm's queue already, as {found[0]}: wait for it, or cancel it first "
            f"(scancel --name={name})"
        )


def _submit(script: Path) -> None:
    command = ["sbatch", "--parsable", str(script)]
    if shutil.which("sbatch") is None:
        print(f"written  {script}\nsubmit   {shell_command(*command)}  (sbatch was not found here)", flush=True)
        return
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RunError(f"sbatch refused '{script}': {done.stderr.strip() or done.stdout.strip()}")
    print(f"submitted  {script} as job {done.stdout.strip()}", flush=True)
