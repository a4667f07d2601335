"""Cells of the score matrix, played in several processes at once."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any, Generic

import torch

from blip_rl.errors import RunError, UserError
from blip_rl.evaluation.cells import Cell, CellPlayer, Result, play_here
from blip_rl.storage.provenance import command
from blip_rl.tasks.games import rom_name
from blip_rl.untrusted.machine import check_memory, memory_bytes

_PATIENCE_SECONDS = 10
_WORKER_BYTES = 250_000_000  # of a process that has imported torch and Gymnasium
_GAMES_OVER, _PLAYED, _REFUSED, _FAILED = "games over", "played", "refused", "failed"


def play_cells(
    player: CellPlayer[Result],
    cells: Sequence[Cell],
    workers: int | None,
    on_games_over: Callable[[int], object],
    kept: str,
) -> Generator[Result, None, None]:
    """Play cells here or in several processes, each one's result as soon as it is done.

    Args:
        player: What to make of a cell.
        cells: What to play.
        workers: Processes; None takes one for each core, or fewer where memory is short, if an Atari game is played,
            and else none: games of a few milliseconds are over before a process has started.
        on_games_over: Called with the number of games that have just ended.
        kept: What is left of the cells that were done if one fails, for the error's message.

    Raises:
        UserError: a checkpoint is damaged or not this run's.
        RunError: a game or a worker died or failed; with the cell, what is kept and the command to give again.
    """
    if workers is None:
        workers = _default_workers() if any(rom_name(player.task(cell).game) for cell in cells) else 1
    alone = min(workers, len(cells)) == 1
    try:
        yield from (
            play_here(player, cells, on_games_over) if alone else play_in_workers(player, cells, workers, on_games_over)
        )
    except RunError as error:
        raise RunError(f"{error} ({kept}; once more: {command()})") from error


def _default_workers() -> int:
    """One for each core that this process may use, as far as there is memory for them."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, memory_bytes() // _WORKER_BYTES))


def play_in_workers(
    player: CellPlayer[Result],
    cells: Sequence[Cell],
    workers: int,
    on_games_over: Callable[[int], object],
) -> Generator[Result, None, None]:
    """Play cells in new processes, each one's result as soon as it is done; the processes end with the iteration.

    Args:
        player: Goes to every process; each loads the stages it needs.
        cells: What to play, handed out one by one in this order, but a process goes on with its stage while it can.
        workers: Processes.
        on_games_over: Called here with the number of games that have just ended in some process.

    Raises:
        UserError: a checkpoint is damaged or not this run's, or there is no memory for so many processes.
        RunError: a process died or could not be started, or what it ran raised an error; names the cell.
    """
    waiting, pool = list(cells), list[_Worker[Result]]()
    count = min(workers, len(cells))
    check_memory(f"playing in {count} processes", {"their libraries": _WORKER_BYTES * count}, "use fewer --workers")
    try:
        for _ in range(count):
            pool.append(_started(player, len(pool)))
            pool[-1].give(_next(waiting, None))
        while busy := {worker.connection: worker for worker in pool if worker.cell is not None}:
            for connection in wait(list(busy)):
                worker = busy[connection]  # type: ignore[index]
                kind, content = worker.answer()
                if kind == _GAMES_OVER:
                    on_games_over(content)
                    continue
                yield content
                worker.give(_next(waiting, worker.cell) if waiting else None)
    finally:
        for worker in pool:
            worker.stop()


def _started(player: CellPlayer[Result], running: int) -> _Worker[Result]:
    try:
        return _Worker(player)
    except OSError as error:
        raise RunError(
            f"only {running} processes could be started ({error.strerror or error}): use fewer --workers"
        ) from error


def _next(waiting: list[Cell], before: Cell | None) -> Cell:
    """Take the first cell of the stage that is loaded already, else the first of all."""
    same = [cell for cell in waiting if before is not None and cell.stage == before.stage]
    chosen = (same or waiting)[0]
    waiting.remove(chosen)
    return chosen


class _Worker(Generic[Result]):
    """One process and what it is playing."""

    def __init__(self, player: CellPlayer[Result]) -> None:
        self._player = player
        context = multiprocessing.get_context("spawn")  # a fork would share torch's threads and the emulator's
        self.connection, theirs = context.Pipe()
        self.cell: Cell | None = None
        self._process = context.Process(target=_serve, args=(theirs, player), daemon=True)
        self._process.start()
        theirs.close()  # so that the connection ends with the process

    def give(self, cell: Cell | None) -> None:
        """Let the process play a cell; None leaves it idle."""
        self.cell = cell
        if cell is not None:
            try:
                self.connection.send(cell)
            except OSError as error:
                raise self._death_error() from error

    def answer(self) -> tuple[str, Any]:
        """What the process says next.

        Raises:
            UserError: it refuses the checkpoint.
            RunError: it has died, or failed.
        """
        try:
            kind, content = self.connection.recv()
        except (EOFError, OSError) as error:
            raise self._death_error() from error
        if kind == _REFUSED:
            raise UserError(content)
        if kind == _FAILED:
            raise RunError(f"playing {self._current_cell()} failed: {content}")
        return kind, content

    def stop(self) -> None:
        """End the process, whatever it is doing."""
        self._process.terminate()
        self._process.join(timeout=_PATIENCE_SECONDS)
        self._process.kill()  # one that is stopped, or deaf, would be waited for for ever
        self._process.join()
        self.connection.close()

    def _current_cell(self) -> str:
        return "nothing" if self.cell is None else self._player.describe(self.cell)

    def _death_error(self) -> RunError:
        self._process.join(timeout=_PATIENCE_SECONDS)
        code = self._process.exitcode
        how = f"killed by {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit code {code}"
        return RunError(
            f"the worker process that played {self._current_cell()} died ({how}); it may have run out of memory: "
            "use fewer --workers"
        )


def _serve(connection: Connection, player: CellPlayer[Result]) -> None:
    """A worker's life: play what is asked for until nobody asks any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then stops its workers
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with suppress(OSError):  # a game that prints must not write between the lines of the parent's table
        os.dup2(2, 1)
    torch.set_num_threads(1)
    with suppress(OSError):  # the parent has gone: there is nobody left to tell
        while True:
            try:
                cell: Cell = connection.recv()
            except EOFError:
                return
            connection.send(_answer(player, cell, lambda count: connection.send((_GAMES_OVER, count))))


def _end_with_parent() -> None:
    """A parent that is killed stops nobody, and a game that never ends would never notice."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _answer(player: CellPlayer[Any], cell: Cell, on_games_over: Callable[[int], object]) -> tuple[str, Any]:
    """What became of a cell."""
    try:
        return _PLAYED, player.play(cell, on_games_over)
    except UserError as error:
        return _REFUSED, str(error)
    except RunError as error:
        return _FAILED, str(error)
    except Exception as error:
        return _FAILED, f"{type(error).__name__}: {error}"
