"""Evaluate, report and render runs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from blip_rl.api import arguments
from blip_rl.api.loading import loading
from blip_rl.api.scores import Scores
from blip_rl.api.trust import trust_runs
from blip_rl.errors import UserError
from blip_rl.limits import LARGEST_EVALUATION_SEED, MOST_EPISODES, MOST_VIDEO_EPISODES, MOST_WORKERS

if TYPE_CHECKING:
    from blip_rl.reporting.page import ReportFiles

RunPath = str | os.PathLike[str]
Actions = Literal["greedy", "stochastic"]
_ACTIONS = ("greedy", "stochastic", None)
_SWEEP = "sweep.json"


def evaluate(
    run: RunPath,
    *,
    games: Iterable[str] | None = None,
    episodes: int | None = None,
    actions: Actions | None = None,
    zero_shot: bool = False,
    seed: int | None = None,
    stages: Sequence[int] | None = None,
    workers: int | None = None,
    trust: bool = False,
    progress: bool = False,
) -> Scores:
    """Evaluate the agent of every stage on the games it has learned and write the scores to ``scores.csv``.

    Scores are only returned, not stored, if the run is unfinished or its folder is not writable.

    Args:
        run: A run folder.
        games: Names of the run's games to play; None: all.
        episodes: Episodes for each game; None: as in the run's recipe.
        actions: ``greedy`` or ``stochastic``; None: as in the run's recipe.
        zero_shot: Also play games that a stage has not learned yet.
        seed: First evaluation seed; None: as in the run's recipe.
        stages: Stages to evaluate; None: all that have a checkpoint.
        workers: Number of processes, on which the scores do not depend; None: one per core for Atari, else one.
        trust: Import the packages and wrappers that the run names, which runs their code.
        progress: Show a progress bar on a terminal.

    Returns:
        The scores that were played; ``summary`` is the score matrix as text.

    Raises:
        UserError: An argument is invalid, the folder is not a run, or a file is damaged.
        RunError: A worker died or failed.
    """
    folder, names = _run_and_games(run, games)
    arguments.choice("actions", actions, _ACTIONS)
    arguments.optional_whole("episodes", episodes, 1, MOST_EPISODES)
    arguments.optional_whole("seed", seed, 0, LARGEST_EVALUATION_SEED)
    arguments.optional_whole("workers", workers, 1, MOST_WORKERS)
    for name, value in (("zero_shot", zero_shot), ("progress", progress), ("trust", trust)):
        arguments.flag(name, value)
    chosen = arguments.stage_numbers(stages)
    trust_runs(trust, folder)
    with loading():
        from blip_rl.evaluation.rescore import evaluate_run
    evaluated = evaluate_run(
        folder,
        games=names,
        episodes=episodes,
        actions=actions,
        zero_shot=zero_shot,
        seed=seed,
        stages=chosen,
        workers=workers,
        quiet=not progress,
    )
    return Scores(evaluated.rows, evaluated.text)


def report(
    runs: RunPath | Iterable[RunPath],
    *,
    out: RunPath | None = None,
    normalize: Literal["recipe", "observed"] = "recipe",
    title: str | None = None,
) -> ReportFiles:
    """Write an HTML report with charts of one or more runs, grouped by agent.

    Args:
        runs: A run folder, or a list of them. A folder that contains run folders stands for all of them; that of a
            sweep for the runs of its plan.
        out: Folder for ``report.html`` and ``pictures/``; None: the folder of the run or the sweep, or for several runs
            a new folder below ``runs/``.
        normalize: ``recipe``: by the recipe's random and reference scores; ``observed``: by the returns in these runs.
        title: Title of the report; None: agents and games.

    Returns:
        Paths of the page and the pictures, and everything that is missing or damaged.

    Raises:
        UserError: An argument is invalid, or a folder is not a run.
        OSError: The page cannot be written.
    """
    from blip_rl.storage.paths import check_is_folder, check_writable_folder

    one = isinstance(runs, str | os.PathLike) or not isinstance(runs, Iterable)
    folders = [arguments.path("runs", run) for run in ([runs] if one else runs)]  # type: ignore[union-attr]
    if not folders:
        raise UserError("runs = []: expected at least one run folder")
    arguments.choice("normalize", normalize, ("recipe", "observed"))
    if title is not None and not isinstance(title, str):
        raise UserError(f"title = {arguments.shown(title)}: expected text")
    for folder in folders:
        check_is_folder(folder)
    target = arguments.optional_path("out", out)
    if target is not None:
        check_writable_folder(target)
    elif len(folders) == 1 and (folders[0] / "config.toml").is_file():
        check_writable_folder(folders[0])
    from blip_rl.reporting.page import write_report

    if len(folders) == 1 and target is None and (folders[0] / _SWEEP).is_file():
        target = folders[0]
    return write_report(_without_sweeps(folders), out=target, normalize=normalize, title=title)


def _without_sweeps(folders: Sequence[Path]) -> list[Path]:
    """Replace the folders of sweeps by their runs, in the order of the plan, without runs that have left it."""
    found = []
    for folder in folders:
        if not (folder / _SWEEP).is_file():
            found.append(folder)
            continue
        from blip_rl.sweeps.folder import begun_runs

        runs = begun_runs(folder)
        if not runs:
            raise UserError(f"the sweep in '{folder}' has no run yet: start it first (blip-rl sweep)")
        found += runs
    return found


def render(
    run: RunPath,
    other: RunPath | None = None,
    *,
    games: Iterable[str] | None = None,
    stages: Sequence[int] | None = None,
    episodes: int | None = None,
    episode: str | int = "mean",
    seconds: float = 10.0,
    fps: float = 15.0,
    scale: float | None = None,
    file_format: Literal["gif", "webp", "mp4"] = "gif",
    actions: Actions | None = None,
    workers: int | None = None,
    out: RunPath | None = None,
    trust: bool = False,
    progress: bool = False,
) -> list[Path]:
    """Render videos of every game after every stage, and a grid of all; or a grid that compares two runs.

    Args:
        run: A run folder.
        other: A second run folder: one grid of the final agents of both, on the games that both have learned.
        games: Names of the run's games; None: all.
        stages: Stages to show; None: all that have a checkpoint. Not with ``other``.
        episodes: Play so many new episodes per video and show one of them; None: show an evaluated episode.
        episode: ``mean`` (return nearest to the mean), ``best``, or an evaluation seed.
        seconds: Maximum length of each clip.
        fps: Frames per second.
        scale: Size; 1 is 160 pixels wide; None: 2, in grids 1.
        file_format: ``gif``, ``webp`` or ``mp4``.
        actions: ``greedy`` or ``stochastic``; None: as in the evaluation.
        workers: Number of processes, on which the videos do not depend; None: one per core for Atari, else one.
        out: Output folder, with ``other`` the output file; None: ``gifs`` in the run folder.
        trust: Import the packages and wrappers that the runs name, which runs their code.
        progress: Show a progress bar on a terminal, and say which replayed episodes differ from ``scores.csv``.

    Returns:
        The files written.

    Raises:
        UserError: An argument is invalid, the folder is not a run, or the games have no pictures.
        RunError: A worker died or failed.
    """
    versus = arguments.optional_path("other", other)
    if versus is not None and stages:
        raise UserError("--stage with two runs: a comparison shows the last stage of both (leave --stage out)")
    folder, names = _run_and_games(run, games)
    chosen = arguments.stage_numbers(stages)
    arguments.optional_whole("workers", workers, 1, MOST_WORKERS)
    for name, value in (("trust", trust), ("progress", progress)):
        arguments.flag(name, value)
    arguments.choice("actions", actions, _ACTIONS)
    from blip_rl.video.options import RenderOptions

    options = RenderOptions(
        episodes=arguments.optional_whole("episodes", episodes, 1, MOST_VIDEO_EPISODES),
        episode=episode
        if isinstance(episode, str)
        else str(arguments.whole("episode", episode, 0, LARGEST_EVALUATION_SEED)),
        actions=actions,
        seconds=arguments.number("seconds", seconds),
        fps=arguments.number("fps", fps),
        scale=None if scale is None else arguments.number("scale", scale),
        file_format=file_format,
    )
    target = arguments.optional_path("out", out)
    _check_output(folder, versus, target)
    trust_runs(trust, *(path for path in (folder, versus) if path is not None))
    with loading():
        from blip_rl.video.render import render_run, render_versus
    if versus is not None:
        return [render_versus(folder, versus, options, games=names, workers=workers, out=target, quiet=not progress)]
    return render_run(folder, options, games=names, stages=chosen, workers=workers, out=target, quiet=not progress)


def _run_and_games(run: RunPath, games: Iterable[str] | None) -> tuple[Path, tuple[str, ...] | None]:
    """Check a run folder and the requested games before heavy libraries are imported."""
    from blip_rl.storage.paths import check_run, named_games, task_games

    folder = arguments.path("run", run)
    check_run(folder)
    if games is None:
        return folder, None
    return folder, named_games(arguments.names("games", games, '["kungfu", "boxing"]'), task_games(folder))


def _check_output(run: Path, other: Path | None, out: Path | None) -> None:
    """Check the second run and the output path before episodes are played, which can take hours."""
    from blip_rl.storage.paths import check_run, check_writable_folder

    if other is not None:
        check_run(other)
    if out is None:
        check_writable_folder(run / "gifs")
    else:
        check_writable_folder(out if other is None else out.parent)
