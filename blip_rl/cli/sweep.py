"""``blip-rl sweep``: train agents × sequences × settings × seeds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from blip_rl.cli.options import OVERRIDES, TRUST, complete_agents, complete_folders, complete_games
from blip_rl.cli.values import Choice, Number, WholeNumber
from blip_rl.errors import UserError
from blip_rl.limits import MOST_JOBS, MOST_RETRIES, MOST_THREADS, MOST_TRIALS
from blip_rl.untrusted.files import MOST_TASKS

_TRIALS = 30


@click.command(
    short_help="Train many runs: agents × sequences × settings × seeds.",
    epilog="The same command continues a sweep that was stopped or killed: finished runs are not repeated. Ctrl-C "
    "saves every run. blip-rl report FOLDER compares the agents.",
)
@click.argument("plan", required=False, type=click.Path(path_type=Path))
@click.option(
    "--agents",
    metavar="LIST",
    shell_complete=complete_agents,
    help="Comma-separated agent recipes: names or .toml files.",
)
@click.option(
    "--games",
    "sequences",
    multiple=True,
    metavar="LIST",
    shell_complete=complete_games,
    help="A sequence, as for blip-rl train. Repeatable: every agent learns each of them.",
)
@click.option("--seeds", metavar="LIST", help="Seeds, for example 0-9 or 0,2,5.")
@click.option("--tuning-seeds", metavar="LIST", help="Seeds for tuning; must not overlap with --seeds.")
@click.option("--steps", metavar="N", help="Training steps per game (and visit).  [default: as in the recipe]")
@click.option("--cycles", type=WholeNumber(1, MOST_TASKS), metavar="N", help="Repeat the order of the games N times.")
@OVERRIDES
@click.option(
    "--grid",
    "grids",
    multiple=True,
    metavar="KEY=V1,V2",
    help="Vary a recipe setting, as in method.first_task_drift=0.01,0.1. Repeatable: every combination is run.",
)
@click.option("--device", metavar="auto|cpu|cuda", help="Torch device of the runs.  [default: auto]")
@click.option(
    "--threads", type=WholeNumber(1, MOST_THREADS), metavar="N", help="CPU threads of each run.  [default: 1]"
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    shell_complete=complete_folders,
    metavar="FOLDER",
    help="Folder of the sweep.  [default: sweeps/NAME for a plan NAME.toml]",
)
@click.option(
    "--engine",
    default="local",
    type=Choice(["local", "ray", "slurm"]),
    help="Where runs are executed: in processes on this machine, on a Ray cluster, or as a Slurm job array.",
)
@click.option(
    "--address",
    metavar="HOST:PORT",
    help="Head node of the Ray cluster, of which this machine is part.  [default: a cluster on this machine alone]",
)
@click.option(
    "--jobs",
    type=WholeNumber(1, MOST_JOBS),
    metavar="N",
    help="Number of runs at the same time.  [default: as many as cores and memory allow]",
)
@click.option(
    "--gpus-per-run",
    type=Number(0, 1),
    metavar="SHARE",
    help="Fraction of a GPU that each run uses; 0.25 places four runs on each GPU.  [default: 1.0]",
)
@click.option(
    "--retries",
    type=WholeNumber(0, MOST_RETRIES),
    metavar="N",
    help="How often to retry a run whose process died.  [default: 2]",
)
@click.option(
    "--slurm-option",
    "slurm_options",
    multiple=True,
    metavar="OPTION",
    help="Option of sbatch, as in --slurm-option=--partition=gpu. Repeatable.",
)
@click.option(
    "--search",
    type=Choice(["optuna"]),
    help="Hyperparameter search over the ranges in the plan, on its tuning seeds.",
)
@click.option(
    "--trials",
    type=WholeNumber(1, MOST_TRIALS),
    metavar="N",
    help="With --search: settings to try for each agent.  [default: 30]",
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Check everything, print the runs and the estimated time and disk space, and write nothing.",
)
@TRUST
def sweep(
    plan: Path | None,
    overrides: tuple[str, ...],
    grids: tuple[str, ...],
    out: Path | None,
    engine: str,
    address: str | None,
    jobs: int | None,
    gpus_per_run: float | None,
    retries: int | None,
    slurm_options: tuple[str, ...],
    search: str | None,
    trials: int | None,
    dry_run: bool,
    trust: bool,
    **options: Any,
) -> None:
    """Train every combination of agent, sequence, setting and seed.

    PLAN is a .toml file with the keys of docs/sweeps.md; options replace its values.
    """
    if plan is None and all(value in (None, ()) for value in options.values()):
        raise UserError("expected a plan, such as sweep.toml, or --agents, --games, --seeds and --out")
    from blip_rl.api import sweeping

    changed: dict[str, Any] = {key: value for key, value in options.items() if value not in (None, ())}
    if overrides:
        changed["set"] = dict(_setting("--set", text) for text in overrides)
    if grids:
        changed["grid"] = {key: _values(text) for key, text in (_pair("--grid", text) for text in grids)}
    if both := sorted(set(changed.get("set", ())) & set(changed.get("grid", ()))):
        raise UserError(f"--set {both[0]} with --grid {both[0]}: expected one or the other")
    placed: dict[str, Any] = {"out": out, "jobs": jobs, "trust": trust}
    placed |= {} if gpus_per_run is None else {"gpus_per_run": gpus_per_run}
    given: Any = {} if plan is None else plan
    _check_search(search, trials, engine, dry_run)
    _check_engine(engine, address, gpus_per_run, retries, slurm_options)
    if dry_run:
        click.echo(sweeping.sweep_plan(given, options=changed, engine=engine, **placed))
        return
    placed |= {"engine": engine, "address": address}
    placed |= {} if retries is None else {"retries": retries}
    if search:
        sweeping.search(given, options=changed, trials=_TRIALS if trials is None else trials, **placed)
    else:
        sweeping.sweep(given, options=changed, slurm_options=slurm_options, **placed)


def _check_engine(
    engine: str, address: str | None, gpus_per_run: float | None, retries: int | None, slurm_options: tuple[str, ...]
) -> None:
    """Refuse options that the engine would ignore."""
    if address is not None and engine != "ray":
        raise UserError(f"--address {address} with --engine {engine}: only Ray has one (--engine ray, or leave it out)")
    if slurm_options and engine != "slurm":
        raise UserError(
            f"--slurm-option {slurm_options[0]} with --engine {engine}: only Slurm takes it (--engine slurm, or leave "
            "it out)"
        )
    if gpus_per_run is not None and engine == "slurm":
        raise UserError(
            f"--gpus-per-run {gpus_per_run:g} with --engine slurm: each run gets a GPU of its own (leave it out)"
        )
    if retries is not None and engine == "slurm":
        raise UserError(f"--retries {retries} with --engine slurm: Slurm itself requeues runs (leave it out)")


def _check_search(search: str | None, trials: int | None, engine: str, dry_run: bool) -> None:
    if search is None and trials is not None:
        raise UserError(f"--trials {trials} without --search: expected --search optuna")
    if search and engine == "slurm":
        raise UserError("--search with --engine slurm: a search waits for its runs (use --engine local or ray)")
    if search and dry_run:
        raise UserError("--search with --dry-run: which runs a search makes depends on their scores (leave one out)")


def _pair(option: str, text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip() or not value.strip():
        example = "ppo.learning_rate=1e-4" + (",3e-4" if option == "--grid" else "")
        raise UserError(f"{option} {text!r}: expected section.key=value, for example {option} {example}")
    return key.strip(), value.strip()


def _setting(option: str, text: str) -> tuple[str, Any]:
    key, value = _pair(option, text)
    return key, _value(value)


def _values(text: str) -> list[Any]:
    """Read values separated by commas, which may be inside of lists."""
    import tomllib

    try:
        return list(tomllib.loads(f"values = [\n{text}\n]")["values"])
    except (ValueError, RecursionError):
        return [_value(part.strip()) for part in text.split(",")]


def _value(text: str) -> Any:
    """Read a value as ``--set`` does: TOML, or plain text where it is not; None for ``none``."""
    import tomllib

    if text.lower() == "none":
        return None
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        return text
