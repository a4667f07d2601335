"""Render videos of the agents of a run: every game after every stage, from the stage checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import closing
from pathlib import Path

from blip_rl.config import RunConfig
from blip_rl.console import Console
from blip_rl.errors import UserError
from blip_rl.evaluation.cells import Cell, chosen_games, chosen_stages
from blip_rl.evaluation.pool import play_cells
from blip_rl.formatting import score_text
from blip_rl.methods import learns_together
from blip_rl.reporting.task import shown_title
from blip_rl.storage.run_folder import RunFolder
from blip_rl.tasks.pictures import check_pictures
from blip_rl.video.encode import save
from blip_rl.video.grid import Grid, GridCell, Labels
from blip_rl.video.options import RenderOptions
from blip_rl.video.recorder import RecordedCell, RecordingPlayer
from blip_rl.video.scored import scored_cells

_CELL_SCALE, _GRID_SCALE = 2.0, 1.0


def render_run(
    run: Path,
    options: RenderOptions | None = None,
    *,
    games: Sequence[str] | None = None,
    stages: Sequence[int] | None = None,
    workers: int | None = None,
    out: Path | None = None,
    quiet: bool = True,
) -> list[Path]:
    """Render a video of every game after every stage that had learned it, and a grid of all videos.

    The files do not depend on the number of workers; existing files are replaced.

    Args:
        run: A run folder.
        options: Options for rendering.
        games: Names of the run's tasks; None selects all.
        stages: Stages to show; None selects all that have a checkpoint.
        workers: Number of processes; None: see :func:`~blip_rl.evaluation.pool.play_cells`.
        out: Output folder; None: ``gifs`` in the run folder.
        quiet: Show no progress bar, and do not say which replayed episodes differ from ``scores.csv``.

    Returns:
        Paths of ``stage-<stage>-<game>.<format>`` for every cell and, if there are several, ``grid.<format>``.

    Raises:
        UserError: not a run, no finished stage, unknown stage or game, damaged file, or game without pictures.
        RunError: a worker died or failed.
    """
    options = options or RenderOptions()
    source = _Source(run, options)
    names = chosen_games(source.config, games)
    cells = source.cells(chosen_stages(source.folder, source.config, stages), names)
    folder = out or run / "gifs"
    if folder.exists() and not folder.is_dir():
        raise UserError(f"output '{folder}' is a file: expected a folder for the videos of one run")
    kept = f"videos of finished cells are in '{folder}'"
    paths, shown, console = [], [], Console(quiet)
    with (
        console.counter(f"playing {len(cells)} cells", source.games(cells)) as bar,
        closing(source.record(cells, workers, bar.update, kept)) as results,
    ):
        for recorded in results:
            _report_difference(console, recorded)
            shown.append(recorded)
            paths.append(folder / f"stage-{recorded.cell.stage:02d}-{recorded.cell.task}.{options.file_format}")
            save(_single(source, recorded, options), paths[-1])
    if len(shown) > 1:
        paths.append(folder / f"grid.{options.file_format}")
        save(_triangle(source, shown, options), paths[-1])
    return sorted(paths)


def render_versus(
    run: Path,
    other: Path,
    options: RenderOptions | None = None,
    *,
    games: Sequence[str] | None = None,
    workers: int | None = None,
    out: Path | None = None,
    quiet: bool = True,
) -> Path:
    """Render a grid that compares the final agents of two runs on their common games, one row per run.

    Arguments and errors are those of :func:`render_run`, but ``out`` is the output file; None:
    ``gifs/versus-<folder of the other run>.<format>`` in the folder of the first run.

    Returns:
        Path of the file.
    """
    options = options or RenderOptions()
    sources = [_Source(run, options), _Source(other, options)]
    names = _shared_games(sources, games)
    path = out or run / "gifs" / f"versus-{other.resolve().name}.{options.file_format}"
    if path.suffix != f".{options.file_format}":
        raise UserError(f"output file '{path}': expected a name that ends in .{options.file_format} (see --format)")
    cells = [source.cells([source.last_stage()], names) for source in sources]
    played: list[list[RecordedCell]] = []
    console = Console(quiet)
    total = sum(source.games(its_cells) for source, its_cells in zip(sources, cells, strict=True))
    with console.counter(f"playing {2 * len(names)} cells", total) as bar:
        for source, its_cells in zip(sources, cells, strict=True):
            with closing(source.record(its_cells, workers, bar.update, "nothing was written")) as results:
                played.append(list(results))
    for recorded in (recorded for shown in played for recorded in shown):
        _report_difference(console, recorded)
    save(_versus(sources, names, played, options), path)
    return path


class _Source:
    """A run to render.

    Attributes:
        actions: Greedy or sampled: as requested, else as in its evaluation.
    """

    def __init__(self, run: Path, options: RenderOptions) -> None:
        from blip_rl.recipes import load_run_config

        self.folder = RunFolder.existing(run)
        self.config = load_run_config(self.folder.config)
        rows = self.folder.read_scores() if self.folder.scores.exists() else []
        self.actions, scored = scored_cells(rows, self.config.evaluation.actions, options.actions)
        self._player = RecordingPlayer(self.folder.path, self.config, options, self.actions, scored)
        self.tasks = {task.name: task for task in self.config.tasks}
        self.together = learns_together(str(self.config.agent.method["name"]))

    def last_stage(self) -> int:
        """Return the number of the last stage with a checkpoint."""
        return chosen_stages(self.folder, self.config, None)[-1]

    def cells(self, stages: Sequence[int], games: Sequence[str]) -> list[Cell]:
        """Return the cells of all games after all stages that had learned them, and check that they can be rendered."""
        cells = [Cell(stage, game) for stage in stages for game in games if game in self.config.seen_names(stage)]
        if not cells:
            raise UserError(
                f"nothing to render: '{self.folder.path}' had not learned {', '.join(games)} by stage "
                f"{', '.join(map(str, stages))}"
            )
        for game in dict.fromkeys(cell.task for cell in cells):
            check_pictures(self.tasks[game], self.config.atari)
        return cells

    def games(self, cells: Sequence[Cell]) -> int:
        """Return the number of episodes that are played to record the cells."""
        return sum(self._player.evaluation_for(cell).episodes for cell in cells)

    def record(
        self, cells: list[Cell], workers: int | None, on_games_over: Callable[[int], object], kept: str
    ) -> Generator[RecordedCell, None, None]:
        """Record the cells and yield each as soon as it is available; ``kept`` as for ``play_cells``."""
        return play_cells(self._player, cells, workers, on_games_over, kept)

    def title(self, game: str) -> str:
        """Return the display name of a game."""
        return shown_title(game, self.tasks[game].title)

    def learned(self, stage: int) -> tuple[str, str]:
        """Return the two-line row label of a stage."""
        if self.together:
            return "after learning", "all at once"
        return "after learning", self.title(self.config.task_of(stage).name) + self.config.visit_label(stage)


def _report_difference(console: Console, recorded: RecordedCell) -> None:
    """Print a message if a repeated episode differs from the one in ``scores.csv``."""
    if recorded.expected is not None:
        console.say(
            f"{recorded.cell}: the episode with return {score_text(recorded.expected)} in scores.csv is not repeatable "
            f"(different device or thread count?); the video shows an episode with return {score_text(recorded.score)}"
        )


def caption(score: float, mean: float) -> tuple[str, str]:
    """Return the left and right part of a caption: the return of the shown episode and the mean return of all."""
    own, of_all = (score_text(value).replace("-", "−") for value in (score, mean))
    return f"score {own}", f"mean {of_all}"


def _single(source: _Source, recorded: RecordedCell, options: RenderOptions) -> Grid:
    """Lay out one clip below the name of the game."""
    title = f"{source.title(recorded.cell.task)} {_learned(source, recorded.cell.stage)}"
    labels = Labels(columns=(title,), footer=_shown(options, [recorded], {source.actions}))
    return Grid(
        (GridCell(recorded.clip, *caption(recorded.score, recorded.mean)),),
        labels,
        options.fps,
        options.scale or _CELL_SCALE,
    )


def _triangle(source: _Source, shown: Sequence[RecordedCell], options: RenderOptions) -> Grid:
    """Lay out one row per stage and one column per game, in the order of learning."""
    stages = sorted({recorded.cell.stage for recorded in shown})
    games = [name for name in source.tasks if any(recorded.cell.task == name for recorded in shown)]
    cells = [
        GridCell(
            recorded.clip,
            *caption(recorded.score, recorded.mean),
            stages.index(recorded.cell.stage),
            games.index(recorded.cell.task),
        )
        for recorded in sorted(shown, key=lambda r: (r.cell.stage, games.index(r.cell.task)))
    ]
    labels = Labels(
        columns=tuple(source.title(game) for game in games),
        rows=tuple(source.learned(stage) for stage in stages),
        corner=(source.config.agent_name,),
        footer=_footer(options, shown, {source.actions}),
    )
    return Grid(tuple(cells), labels, options.fps, options.scale or _GRID_SCALE)


def _versus(
    sources: Sequence[_Source], games: Sequence[str], played: list[list[RecordedCell]], options: RenderOptions
) -> Grid:
    """Lay out one row per run and one column per game; the higher mean of each game is highlighted."""
    names = _agent_names([source.config for source in sources])
    means = {(row, recorded.cell.task): recorded.mean for row, shown in enumerate(played) for recorded in shown}
    cells = [
        GridCell(
            recorded.clip, *caption(recorded.score, recorded.mean), row, games.index(recorded.cell.task),
            bright=recorded.mean > means[1 - row, recorded.cell.task],
        )
        for row, shown in enumerate(played)
        for recorded in sorted(shown, key=lambda r: games.index(r.cell.task))
    ]  # fmt: skip
    labels = Labels(
        columns=tuple(sources[0].title(game) for game in games),
        rows=tuple((_learned(source, source.last_stage()), name) for source, name in zip(sources, names, strict=True)),
        footer=_footer(
            options,
            [recorded for shown in played for recorded in shown],
            {source.actions for source in sources},
        )
        + ("; yellow: the higher mean" if any(cell.bright for cell in cells) else ""),
    )
    return Grid(tuple(cells), labels, options.fps, options.scale or _GRID_SCALE)


def _learned(source: _Source, stage: int) -> str:
    if source.together:
        return "all at once"
    return f"after {stage} {'visit' if source.config.visit_label(stage) else 'game'}{'s' * (stage > 1)}"


def _agent_names(configs: Sequence[RunConfig]) -> list[str]:
    """Return the names of the agents; equal names get the seed or, if that is equal too, a letter."""
    names = [config.agent_name for config in configs]
    if len(set(names)) < len(names):
        names = [f"{config.agent_name} seed {config.seed}" for config in configs]
    if len(set(names)) < len(names):
        names = [f"{config.agent_name} {letter}" for config, letter in zip(configs, "AB", strict=True)]
    return names


def _shared_games(sources: Sequence[_Source], games: Sequence[str] | None) -> list[str]:
    """Return the games that both runs have learned, in the order of the first run."""
    learned = [source.config.seen(source.last_stage()) for source in sources]
    theirs = {task.name: task.game for task in learned[1]}
    chosen = chosen_games(sources[0].config, games)
    shared = [task.name for task in learned[0] if task.name in chosen and theirs.get(task.name) == task.game]
    if not shared or (games is not None and len(shared) < len(chosen)):
        missing = [name for name in chosen if name not in shared]
        raise UserError(
            f"'{sources[0].folder.path}' and '{sources[1].folder.path}' have not both learned {', '.join(missing)}: "
            "expected two runs with common games (select them with --games)"
        )
    return shared


def _footer(options: RenderOptions, shown: Sequence[RecordedCell], actions: Collection[str]) -> str:
    return f"{_shown(options, shown, actions)}, first {options.seconds:g} s"


def _shown(options: RenderOptions, shown: Sequence[RecordedCell], actions: Collection[str]) -> str:
    """Describe which episodes the clips show, and whether they are those of the score matrix."""
    counts = {recorded.episodes for recorded in shown}
    one = counts == {1}
    many = f"{counts.pop()} " if len(counts) == 1 else ""
    kind = "scored" if all(recorded.scored for recorded in shown) else "new"
    games = f"{many}{kind} {' and '.join(sorted(actions))} {'game' if one else 'games'}"
    replayed = " (some differ from scores.csv)" if any(recorded.expected is not None for recorded in shown) else ""
    if options.episode.isdecimal():
        return f"game with seed {options.episode}, of {games}{replayed}"
    return f"{'best' if options.episode == 'best' else 'nearest to the mean'} of {games}{replayed}"
