"""Pictures of what a run's agents can do: every game after every stage, from the stage checkpoints."""

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
from blip_rl.methods import load_method
from blip_rl.report.run_record import shown_title
from blip_rl.storage.run_folder import RunFolder
from blip_rl.tasks.pictures import check_pictures
from blip_rl.video.encode import save
from blip_rl.video.options import Look
from blip_rl.video.recorder import FilmingPlayer, Take
from blip_rl.video.scored import scored_cells
from blip_rl.video.sheet import Cell as SheetCell
from blip_rl.video.sheet import Labels, Sheet

_CELL_SCALE, _SHEET_SCALE = 2.0, 1.0


def render_run(
    run: Path,
    look: Look | None = None,
    *,
    games: Sequence[str] | None = None,
    stages: Sequence[int] | None = None,
    workers: int | None = None,
    out: Path | None = None,
) -> list[Path]:
    """Film every game after every stage that had learned it, and lay all films out on one sheet.

    The files do not depend on the number of workers; those that are there are replaced.

    Args:
        run: A run folder.
        look: What of it to show, and how.
        games: Names of the run's tasks; None takes all.
        stages: Stages; None takes all that are finished.
        workers: Processes to play in; None as in :func:`~blip_rl.evaluation.pool.play_cells`.
        out: Folder for the files; None takes ``gifs`` in the run folder.

    Returns:
        ``stage-<stage>-<game>.<format>`` for every cell and, if there are several, ``grid.<format>``.

    Raises:
        UserError: not a run folder, no stage finished yet, a stage or game the run never saw, a damaged file, a game
            that cannot be drawn.
        RunError: a worker died or failed.
    """
    look = look or Look()
    source = _Source(run, look)
    names = chosen_games(source.config, games)
    cells = source.cells(chosen_stages(source.folder, source.config, stages), names)
    folder = out or run / "gifs"
    if folder.exists() and not folder.is_dir():
        raise UserError(f"output '{folder}' is a file: expected a folder for the pictures of one run")
    paths, takes, console = [], [], Console(quiet=False)
    with (
        console.counter(f"playing {len(cells)} cells", source.games(cells)) as bar,
        closing(source.film(cells, workers, bar.update, f"films of cells that were done are in '{folder}'")) as results,
    ):
        for take in results:
            _tell_difference(console, take)
            takes.append(take)
            paths.append(folder / f"stage-{take.cell.stage:02d}-{take.cell.task}.{look.file_format}")
            save(_single(source, take, look), paths[-1])
    if len(takes) > 1:
        paths.append(folder / f"grid.{look.file_format}")
        save(_triangle(source, takes, look), paths[-1])
    return sorted(paths)


def render_versus(
    run: Path,
    other: Path,
    look: Look | None = None,
    *,
    games: Sequence[str] | None = None,
    workers: int | None = None,
    out: Path | None = None,
) -> Path:
    """Film the games that two runs share, each run's agent after its last stage, one run below the other.

    Arguments and errors are those of :func:`render_run`, but ``out`` is the file; None takes
    ``gifs/versus-<other agent>`` in the first run's folder. The format is that of ``look``.

    Returns:
        The file.
    """
    look = look or Look()
    sources = [_Source(run, look), _Source(other, look)]
    names = _shared_games(sources, games)
    path = out or run / "gifs" / f"versus-{sources[1].config.agent_name}.{look.file_format}"
    if path.suffix != f".{look.file_format}":
        raise UserError(f"output file '{path}': expected a name that ends in .{look.file_format} (see --format)")
    cells = [source.cells([source.last_stage()], names) for source in sources]
    played: list[list[Take]] = []
    console = Console(quiet=False)
    total = sum(source.games(its_cells) for source, its_cells in zip(sources, cells, strict=True))
    with console.counter(f"playing {2 * len(names)} cells", total) as bar:
        for source, its_cells in zip(sources, cells, strict=True):
            with closing(source.film(its_cells, workers, bar.update, "nothing was written")) as results:
                played.append(list(results))
    for take in (take for takes in played for take in takes):
        _tell_difference(console, take)
    save(_versus(sources, names, played, look), path)
    return path


class _Source:
    """A run to film.

    Attributes:
        actions: How its episodes are played: as asked for, else as its scores were taken.
    """

    def __init__(self, run: Path, look: Look) -> None:
        from blip_rl.recipes import load_run_config

        self.folder = RunFolder.existing(run)
        self.config = load_run_config(self.folder.config)
        rows = self.folder.read_scores() if self.folder.scores.exists() else []
        self.actions, scored = scored_cells(rows, self.config.evaluation.actions, look.actions)
        self._player = FilmingPlayer(self.folder.path, self.config, look, self.actions, scored)
        self.tasks = {task.name: task for task in self.config.tasks}
        self.together = load_method(str(self.config.agent.method["name"])).interleaved

    def last_stage(self) -> int:
        """Number of the stage in which the agent has learned the most."""
        return chosen_stages(self.folder, self.config, None)[-1]

    def cells(self, stages: Sequence[int], games: Sequence[str]) -> list[Cell]:
        """Every game after every stage that had learned it; all can be drawn."""
        order = list(self.tasks)
        cells = [Cell(stage, game) for stage in stages for game in games if order.index(game) < stage]
        if not cells:
            raise UserError(
                f"nothing to show: '{self.folder.path}' had not learned {', '.join(games)} by stage "
                f"{', '.join(map(str, stages))}"
            )
        for game in dict.fromkeys(cell.task for cell in cells):
            check_pictures(self.tasks[game], self.config.atari)
        return cells

    def games(self, cells: Sequence[Cell]) -> int:
        """How many games filming the cells plays."""
        return sum(self._player.evaluation_of(cell).episodes for cell in cells)

    def film(
        self, cells: list[Cell], workers: int | None, on_games_over: Callable[[int], object], kept: str
    ) -> Generator[Take, None, None]:
        """Play the cells, each one's film as soon as it is done; ``kept`` says what is left of them if one fails."""
        return play_cells(self._player, cells, workers, on_games_over, kept)

    def title(self, game: str) -> str:
        """What the game is called."""
        return shown_title(game, self.tasks[game].title)

    def learned(self, stage: int) -> tuple[str, str]:
        """What a stage's agent had learned, in two lines."""
        if self.together:
            return "after learning", "all at once"
        return "after learning", self.title(list(self.tasks)[stage - 1])


def _tell_difference(console: Console, take: Take) -> None:
    """Say so where a scored episode came to another end when it was played again."""
    if take.expected is not None:
        console.say(
            f"{take.cell}: an episode with return {score_text(take.expected)} in scores.csv ended otherwise when "
            f"played again (another device, or number of threads?); the film shows one of {score_text(take.score)}"
        )


def caption(score: float, mean: float) -> tuple[str, str]:
    """Left and right part of a film's caption: the return of its own episode, and the mean of all scored ones."""
    own, of_all = (score_text(value).replace("-", "−") for value in (score, mean))
    return f"score {own}", f"mean {of_all}"


def _single(source: _Source, take: Take, look: Look) -> Sheet:
    """One film with the game's name above it."""
    title = f"{source.title(take.cell.task)} {_learned(source, take.cell.stage)}"
    labels = Labels(columns=(title,), footer=_shown(look, [take], {source.actions}))
    return Sheet((SheetCell(take.film, *caption(take.score, take.mean)),), labels, look.fps, look.scale or _CELL_SCALE)


def _triangle(source: _Source, takes: Sequence[Take], look: Look) -> Sheet:
    """A row for each stage, a column for each game, in the order in which they were learned."""
    stages = sorted({take.cell.stage for take in takes})
    games = [name for name in source.tasks if any(take.cell.task == name for take in takes)]
    cells = [
        SheetCell(
            take.film, *caption(take.score, take.mean), stages.index(take.cell.stage), games.index(take.cell.task)
        )
        for take in sorted(takes, key=lambda take: (take.cell.stage, games.index(take.cell.task)))
    ]
    labels = Labels(
        columns=tuple(source.title(game) for game in games),
        rows=tuple(source.learned(stage) for stage in stages),
        corner=(source.config.agent_name,),
        footer=_footer(look, takes, {source.actions}),
    )
    return Sheet(tuple(cells), labels, look.fps, look.scale or _SHEET_SCALE)


def _versus(sources: Sequence[_Source], games: Sequence[str], played: list[list[Take]], look: Look) -> Sheet:
    """A row for each run, a column for each game; the higher mean of each game stands out."""
    names = _agent_names([source.config for source in sources])
    means = {(row, take.cell.task): take.mean for row, takes in enumerate(played) for take in takes}
    cells = [
        SheetCell(
            take.film, *caption(take.score, take.mean), row, games.index(take.cell.task),
            bright=take.mean > means[1 - row, take.cell.task],
        )
        for row, takes in enumerate(played)
        for take in sorted(takes, key=lambda take: games.index(take.cell.task))
    ]  # fmt: skip
    labels = Labels(
        columns=tuple(sources[0].title(game) for game in games),
        rows=tuple((_learned(source, source.last_stage()), name) for source, name in zip(sources, names, strict=True)),
        footer=_footer(look, [take for takes in played for take in takes], {source.actions for source in sources}),
    )
    return Sheet(tuple(cells), labels, look.fps, look.scale or _SHEET_SCALE)


def _learned(source: _Source, stage: int) -> str:
    return "all at once" if source.together else f"after {stage} game{'s' * (stage > 1)}"


def _agent_names(configs: Sequence[RunConfig]) -> list[str]:
    """The agents' names; with the seed, or at last a letter, where they are the same."""
    names = [config.agent_name for config in configs]
    if len(set(names)) < len(names):
        names = [f"{config.agent_name} seed {config.seed}" for config in configs]
    if len(set(names)) < len(names):
        names = [f"{config.agent_name} {letter}" for config, letter in zip(configs, "AB", strict=True)]
    return names


def _shared_games(sources: Sequence[_Source], games: Sequence[str] | None) -> list[str]:
    """Games that both runs have learned by their last stages, in the first run's order."""
    learned = [list(source.tasks.values())[: source.last_stage()] for source in sources]
    theirs = {task.name: task.game for task in learned[1]}
    chosen = chosen_games(sources[0].config, games)
    shared = [task.name for task in learned[0] if task.name in chosen and theirs.get(task.name) == task.game]
    if not shared or (games is not None and len(shared) < len(chosen)):
        missing = [name for name in chosen if name not in shared]
        raise UserError(
            f"'{sources[0].folder.path}' and '{sources[1].folder.path}' have not both learned {', '.join(missing)}: "
            "expected two runs with games in common (--games chooses among them)"
        )
    return shared


def _footer(look: Look, takes: Sequence[Take], actions: Collection[str]) -> str:
    return f"{_shown(look, takes, actions)}, first {look.seconds:g} s"


def _shown(look: Look, takes: Sequence[Take], actions: Collection[str]) -> str:
    """Which episodes the films show, and whether they are those of the score matrix."""
    counts = {take.episodes for take in takes}
    many = f"{counts.pop()} " if len(counts) == 1 else ""
    games = f"{many}{'scored' if all(take.scored for take in takes) else 'new'} {' and '.join(sorted(actions))} games"
    replayed = " (some ended otherwise than scored)" if any(take.expected is not None for take in takes) else ""
    if look.episode.isdecimal():
        return f"game with seed {look.episode}, of {games}{replayed}"
    return f"{'best' if look.episode == 'best' else 'nearest to the mean'} of {games}{replayed}"
