"""Run a sweep: agents × sequences × settings × seeds."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blip_rl.api import arguments
from blip_rl.api.loading import loading
from blip_rl.api.run import Run
from blip_rl.api.trust import trusting_files
from blip_rl.errors import UserError
from blip_rl.limits import MOST_JOBS, MOST_RETRIES, MOST_TRIALS

if TYPE_CHECKING:
    from blip_rl.sweeps.engine import Engine
    from blip_rl.sweeps.estimate import Needs
    from blip_rl.sweeps.manifest import Manifest
    from blip_rl.sweeps.plan import Plan

ENGINES = ("local", "ray", "slurm")
_RAY_ROUND = 16  # runs in a round of trials: places are known only once a cluster is connected
_RETRIES = 2
PlanLike = str | os.PathLike[str] | Mapping[str, Any]


def sweep(
    plan: PlanLike,
    *,
    out: str | os.PathLike[str] | None = None,
    options: Mapping[str, Any] | None = None,
    engine: str = "local",
    jobs: int | None = None,
    gpus_per_run: float | None = None,
    retries: int | None = None,
    address: str | None = None,
    slurm_options: Sequence[str] = (),
    trust: bool = False,
) -> list[Run]:
    """Train agents × sequences × settings × seeds; ``blip-rl sweep`` calls this function.

    Finished runs are not repeated and unfinished ones are resumed, so the same call continues a sweep that was
    stopped or killed. Each run is equal to the run alone.

    Args:
        plan: A plan as a ``.toml`` file or as a mapping with the same keys, such as
            ``{"agents": ["blip", "ewc"], "sequences": ["cartpole4"], "seeds": "0-9"}``.
        out: Folder of the sweep; None: ``sweeps/<name of the plan's file>``.
        options: Keys of the plan whose values replace the plan's; those of ``set`` and ``grid`` are added, and replace
            what the plan sets or varies for the same keys.
        engine: ``local``: processes of this machine; ``ray``: tasks of a Ray cluster; ``slurm``: a job array, which is
            submitted and not waited for.
        jobs: Runs at a time; None: as many as cores, memory and GPUs allow.
        gpus_per_run: Share of a GPU that a run takes; None: one of its own, as always on Slurm.
        retries: How often a run whose process died is tried again; None: twice, and on Slurm as it decides itself.
        address: ``HOST:PORT`` of the head node of a Ray cluster; None: one is started on this machine.
        slurm_options: Options of ``sbatch``, such as ``--partition=gpu``; for the engine ``slurm`` alone.
        trust: Import the packages and wrappers that a recipe names, which runs their code.

    Returns:
        The runs, in the order of the plan.

    Raises:
        UserError: The plan is invalid, or the folder holds something else; nothing is written.
        RunError: Runs have failed; the others are finished.
        InterruptedRunError: A signal stopped the sweep; every run is saved.
    """
    arguments.choice("engine", engine, ENGINES)
    share, tries = _numbers(jobs, gpus_per_run, retries)
    _check_slurm(engine, gpus_per_run, retries)
    if address is not None and engine != "ray":
        raise UserError(f"address = {arguments.shown(address)} with the engine {engine!r}: only 'ray' has one")
    if slurm_options and engine != "slurm":
        raise UserError(
            f"slurm_options = {arguments.shown(slurm_options)} with the engine {engine!r}: only 'slurm' has some"
        )
    folder, manifest, needs = _prepared(plan, out, options, here=engine == "local", trust=trust)
    if engine == "slurm":
        from blip_rl.sweeps.slurm import submit_sweep

        submit_sweep(folder, manifest, needs, jobs=jobs, options=slurm_options)
    else:
        from blip_rl.sweeps.run import run_sweep

        placed = _engine(engine, folder, manifest, needs, jobs, share, address)
        run_sweep(folder, manifest, placed, retries=tries)
    return [Run(folder / run.name) for run in manifest.runs]


def _check_slurm(engine: str, gpus_per_run: float | None, retries: int | None = None) -> None:
    """Refuse what Slurm does not take."""
    if engine == "slurm" and gpus_per_run is not None:
        raise UserError(
            f"gpus_per_run = {gpus_per_run} with the engine 'slurm': each run gets a GPU of its own (leave it out)"
        )
    if engine == "slurm" and retries is not None:
        raise UserError(f"retries = {retries} with the engine 'slurm': Slurm itself requeues runs (leave it out)")


def _numbers(jobs: int | None, gpus_per_run: float | None, retries: int | None = None) -> tuple[float, int]:
    """Check numbers, before the libraries are loaded and also where the machine has no GPU; return the last two."""
    tries = _RETRIES if retries is None else retries
    arguments.whole("retries", tries, 0, MOST_RETRIES)
    arguments.optional_whole("jobs", jobs, 1, MOST_JOBS)
    share = 1.0 if gpus_per_run is None else arguments.number("gpus_per_run", gpus_per_run)
    if not 0 < share <= 1:
        raise UserError(f"gpus_per_run = {share:g}: expected more than 0 and at most 1: a run uses one GPU")
    return share, tries


def search(
    plan: PlanLike,
    *,
    trials: int,
    out: str | os.PathLike[str] | None = None,
    options: Mapping[str, Any] | None = None,
    engine: str = "local",
    jobs: int | None = None,
    gpus_per_run: float | None = None,
    retries: int | None = None,
    address: str | None = None,
    trust: bool = False,
) -> None:
    """Search the ranges of a plan with Optuna, on its tuning seeds alone, and print the best settings of each agent.

    Args:
        plan: As for :func:`sweep`, with ranges and tuning seeds.
        trials: Settings to try for each agent.
        out: Folder of the search; None: ``sweeps/<name of the plan's file>-search``.
        options: As for :func:`sweep`, like the arguments below.
        engine: ``local`` or ``ray``.
        jobs: Runs at a time, and about as many in a round of trials; None: as many as fit; 16 in a round on Ray.
        gpus_per_run: Share of a GPU that a run takes; None: one of its own.
        retries: How often a run whose process died is tried again; None: twice.
        address: ``HOST:PORT`` of the head node of a Ray cluster; None: one is started on this machine.
        trust: Import the packages and wrappers that a recipe names.

    Raises:
        UserError, RunError, InterruptedRunError: As :func:`sweep`.
    """
    from blip_rl.sweeps import optuna_sampler

    arguments.choice("engine", engine, ("local", "ray"))
    arguments.whole("trials", trials, 1, MOST_TRIALS)
    share, tries = _numbers(jobs, gpus_per_run, retries)
    optuna_sampler.check_installed()
    folder = _folder(plan, out)
    folder = folder.with_name(f"{folder.name}-search") if out is None else folder
    with loading():
        from blip_rl.sweeps.estimate import check_settings
        from blip_rl.sweeps.search import Search
    with trusting_files(trust):
        searched = Search(_plan(plan, options or {}), folder)
        examples = searched.examples()
    needs = check_settings(examples, here=engine == "local")
    placed = _engine(engine, folder, examples, needs, jobs, share, address)
    round_size = placed.free if engine == "local" else jobs or _RAY_ROUND
    searched.run(placed, optuna_sampler.suggest, trials=trials, places=round_size, retries=tries)


def sweep_plan(
    plan: PlanLike,
    *,
    out: str | os.PathLike[str] | None = None,
    options: Mapping[str, Any] | None = None,
    engine: str = "local",
    jobs: int | None = None,
    gpus_per_run: float | None = None,
    trust: bool = False,
) -> str:
    """Check everything that :func:`sweep` checks; return its runs and estimates as text, and write nothing."""
    share, _ = _numbers(jobs, gpus_per_run)
    arguments.choice("engine", engine, ENGINES)
    _check_slurm(engine, gpus_per_run)
    here = engine == "local"
    folder, manifest, needs = _prepared(plan, out, options, here=here, trust=trust, remember=False)
    from blip_rl.sweeps.dry_run import dry_run_text
    from blip_rl.sweeps.folder import finished_runs

    count = _places(manifest, needs, jobs, share)[0] if here else jobs or 1
    return dry_run_text(folder, manifest, needs, finished_runs(folder, manifest), count)


def _prepared(
    plan: PlanLike,
    out: object,
    options: Mapping[str, Any] | None,
    *,
    here: bool = True,
    trust: bool,
    remember: bool = True,
) -> tuple[Path, Manifest, dict[str, Needs]]:
    """Check the plan, its recipes and the folder."""
    arguments.flag("trust", trust)
    folder = _folder(plan, out)
    with loading():
        from blip_rl.sweeps.estimate import check_settings
        from blip_rl.sweeps.folder import check_folder
        from blip_rl.sweeps.manifest import make_manifest
    with trusting_files(trust, remember=remember):
        manifest = make_manifest(_plan(plan, options or {}))
    check_folder(folder, manifest)
    return folder, manifest, check_settings(manifest, here=here)


def _folder(plan: PlanLike, out: object) -> Path:
    if out is not None:
        return arguments.path("out", out)
    if isinstance(plan, Mapping):
        raise UserError("--out is missing: expected the folder of the sweep, such as --out sweeps/my-sweep")
    return Path("sweeps") / arguments.path("plan", plan).stem


def _plan(plan: PlanLike, options: Mapping[str, Any]) -> Plan:
    from blip_rl.sweeps.plan import read_plan

    return read_plan(plan if isinstance(plan, Mapping) else arguments.path("plan", plan), options)


def _places(
    manifest: Manifest, needs: dict[str, Needs], jobs: int | None, gpus_per_run: float
) -> tuple[int, tuple[int, ...]]:
    """Return the number of runs at a time on this machine, and the GPU of each."""
    from blip_rl.sweeps import estimate

    gpus = estimate.gpu_places(estimate.gpu_count(), gpus_per_run) if estimate.uses_gpu(needs) else ()
    return estimate.places(needs, manifest.threads, jobs, gpus), gpus


def _engine(
    name: str,
    folder: Path,
    manifest: Manifest,
    needs: dict[str, Needs],
    jobs: int | None,
    gpus_per_run: float,
    address: str | None,
) -> Engine:
    if name == "ray":
        return _ray_engine(folder, manifest, needs, jobs, gpus_per_run, address)
    return _local_engine(manifest, needs, jobs, gpus_per_run)


def _local_engine(manifest: Manifest, needs: dict[str, Needs], jobs: int | None, gpus_per_run: float) -> Engine:
    from blip_rl.sweeps.local import LocalEngine

    return LocalEngine(*_places(manifest, needs, jobs, gpus_per_run))


def _ray_engine(
    folder: Path,
    manifest: Manifest,
    needs: dict[str, Needs],
    jobs: int | None,
    gpus_per_run: float,
    address: str | None,
) -> Engine:
    from blip_rl.sweeps.ray_engine import RayEngine
    from blip_rl.sweeps.ray_places import Request

    devices = {one.device for one in needs.values()}
    request = Request(
        cpus=manifest.threads,
        gpus=0.0 if devices == {"cpu"} else float(gpus_per_run),
        memory=max(one.resources.memory for one in needs.values()),
        gpus_if_any=not any(device.startswith("cuda") for device in devices),
    )
    return RayEngine(folder, request, address=address, most=jobs)
