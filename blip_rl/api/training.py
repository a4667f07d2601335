"""Train an agent on a sequence of games, or resume a run."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blip_rl.api import arguments
from blip_rl.api.loading import loading
from blip_rl.api.run import Run
from blip_rl.api.trust import trust_runs, trusting_files
from blip_rl.errors import UserError
from blip_rl.limits import MOST_THREADS
from blip_rl.tracking.names import CHOICES, check_installed

if TYPE_CHECKING:
    from stable_baselines3.common.type_aliases import MaybeCallback

    from blip_rl.config import RunConfig
    from blip_rl.console import ProgressMode
    from blip_rl.tracking.names import TrackChoice

_PROGRESS = ("auto", "bar", "log", "off", None)
Settings = Mapping[str, Any] | Iterable[str]


def train(
    *,
    games: Iterable[str | os.PathLike[str]],
    agent: str | os.PathLike[str] = "blip",
    steps: int | str | None = None,
    cycles: int | None = None,
    seed: int = 0,
    device: str = "auto",
    out: str | os.PathLike[str] | None = None,
    settings: Settings | None = None,
    callback: MaybeCallback = None,
    threads: int = 0,
    trust: bool = False,
    progress: ProgressMode | None = None,
    track: TrackChoice | None = None,
) -> Run:
    """Train one agent on a sequence of games and write a run folder; ``blip-rl train`` calls this function.

    Args:
        games: Games to learn, in this order: names of games or sequences, or ``.toml`` files. A game that is listed
            again is visited again.
        agent: Agent recipe: a name or a ``.toml`` file.
        steps: Training steps of each game (and visit); None: as in the recipe.
        cycles: How often the order of the games is repeated; None: as in the recipe.
        seed: Random seed.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        out: New run folder; None: a new folder below ``runs/``.
        settings: Values by key that replace the recipe's, such as ``{"ppo.learning_rate": 1e-4}``; None as a value
            unsets a key. A list of texts is read as ``--set`` is: ``["ppo.learning_rate=1e-4"]``.
        callback: A stable-baselines3 callback, a function, or a list of them. They are called for every game as in
            ``learn``; one that returns False ends the training of the current game. To keep exact resuming, a callback
            must not change the agent or its environments, nor draw from the global random generators of Python, NumPy
            and torch; its own state is not saved.
        threads: CPU threads of torch; 0 uses all cores, or one thread with CUDA.
        trust: Import the packages and wrappers that a recipe names, which runs their code.
        progress: What to print: None prints nothing; otherwise as ``--progress``.
        track: ``wandb``, ``trackio`` or ``mlflow``: send that tracker what TensorBoard gets; None: no tracker. If it
            fails there is a warning, and the training continues.

    Returns:
        The finished run.

    Raises:
        UserError: An argument or the recipe is invalid; nothing is written.
        RunError: Training diverged, a game failed, a file could not be written, or memory ran out.
        InterruptedRunError: A signal requested a stop; the run is saved.
    """
    folder = _new_run(out)
    _check_options(threads, progress, trust, track)
    with loading():
        config = _resolved(games, agent, steps, cycles, seed, device, settings, trust=trust)
        from blip_rl.run.train import train as train_sequence

    return Run(
        train_sequence(
            config,
            out=folder,
            threads=threads,
            quiet=progress is None,
            progress=progress or "off",
            callback=callback,
            track=track,
        )
    )


def plan(
    *,
    games: Iterable[str | os.PathLike[str]],
    agent: str | os.PathLike[str] = "blip",
    steps: int | str | None = None,
    cycles: int | None = None,
    seed: int = 0,
    device: str = "auto",
    out: str | os.PathLike[str] | None = None,
    settings: Settings | None = None,
    threads: int = 0,
    trust: bool = False,
    track: TrackChoice | None = None,
) -> str:
    """Check everything that :func:`train` checks; return its tasks and estimates as text, and write nothing."""
    folder = _new_run(out)
    _check_options(threads, None, trust, track)
    with loading():
        config = _resolved(games, agent, steps, cycles, seed, device, settings, trust=trust, remember=False)
        from blip_rl.run.dry_run import dry_run_text
    return dry_run_text(config, out=folder, threads=threads)


def resume(
    path: str | os.PathLike[str],
    *,
    accept_changes: bool = False,
    take_over: bool = False,
    callback: MaybeCallback = None,
    threads: int = 0,
    trust: bool = False,
    progress: ProgressMode | None = None,
    track: TrackChoice | None = None,
) -> Run:
    """Resume a stopped run. Results are bit-identical to those of an uninterrupted run.

    Args:
        path: The run folder.
        accept_changes: Resume although files, versions, device or threads have changed, which may change the results.
        take_over: Resume although another process holds the folder's lock, because it is frozen or its machine is lost.
            If it continues, it stops at its next write and changes nothing.
        callback: As in :func:`train`; a run does not save its callbacks, so give the same ones again.
        threads: CPU threads of torch; 0 uses as many as before.
        trust: Import the packages and wrappers that the run names, which runs their code.
        progress: What to print: None prints nothing; otherwise as ``--progress``.
        track: A tracker, or ``none``; None: continue the run of the tracker that the run was tracked with, if any.

    Returns:
        The finished run.

    Raises:
        UserError: Not a run folder; the run is finished (:class:`~blip_rl.errors.FinishedRunError`); another process
            writes it; or files, versions, device or threads have changed.
        RunError: No snapshot is readable; or an error as in :func:`train`.
        TakenOverError: Another process has taken the run over (a RunError).
        InterruptedRunError: A signal requested a stop; the run is saved.
    """
    from blip_rl.storage.paths import check_run

    folder = arguments.path("path", path)
    _check_options(threads, progress, trust, track)
    arguments.flag("accept_changes", accept_changes)
    arguments.flag("take_over", take_over)
    check_run(folder)
    trust_runs(trust, folder)
    with loading():
        from blip_rl.run.train import resume as resume_run

    return Run(
        resume_run(
            folder,
            accept_changes=accept_changes,
            take_over=take_over,
            threads=threads,
            quiet=progress is None,
            progress=progress or "off",
            callback=callback,
            track=track,
        )
    )


def _new_run(out: object) -> Path | None:
    folder = arguments.optional_path("out", out)
    if folder is not None:
        from blip_rl.storage.paths import check_new_run

        check_new_run(folder)
    return folder


def _check_options(threads: object, progress: object, trust: object, track: Any) -> None:
    arguments.whole("threads", threads, 0, MOST_THREADS)
    arguments.choice("progress", progress, _PROGRESS)
    arguments.flag("trust", trust)
    check_installed(arguments.choice("track", track, (*CHOICES, None)))


def _resolved(
    games: Iterable[str | os.PathLike[str]],
    agent: str | os.PathLike[str],
    steps: int | str | None,
    cycles: int | None,
    seed: int,
    device: str,
    settings: Settings | None,
    *,
    trust: bool,
    remember: bool = True,
) -> RunConfig:
    listed = ",".join(arguments.names("games", games, '["kungfu", "boxing"]'))
    recipe = str(arguments.path("agent", agent))
    overrides = _overrides(settings)
    from blip_rl.recipes import resolve

    with trusting_files(trust, remember=remember):
        return resolve(listed, recipe, steps=steps, cycles=cycles, seed=seed, device=device, overrides=overrides)


def _overrides(settings: Any) -> list[str]:
    """Return settings as ``--set`` takes them, so that there is one validation of both."""
    if settings is None:
        return []
    if isinstance(settings, Iterable) and not isinstance(settings, str | bytes):
        if not isinstance(settings, Mapping):
            listed = list(settings)
            if all(isinstance(item, str) for item in listed):
                return listed
        elif all(isinstance(key, str) for key in settings):
            return [f"{key}={_toml(key, value)}" for key, value in settings.items()]
    raise UserError(
        f"settings = {arguments.shown(settings)}: expected values by key, such as {{'ppo.learning_rate': 1e-4}}"
    )


def _toml(key: str, value: Any) -> str:
    from blip_rl.recipes.settings import toml

    try:
        return toml(value.item() if hasattr(value, "item") else value)  # a number of NumPy or torch
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(
            f"settings[{key!r}] = {arguments.shown(value)}: expected a number, a text, a list, True, False or None"
        ) from error
