"""Play cells of the score matrix in several worker processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from types import ModuleType
from typing import Any, Generic

import torch

from blip_rl.errors import RunError, UserError
from blip_rl.evaluation.cells import Cell, CellPlayer, Result, play_here
from blip_rl.storage.provenance import command
from blip_rl.tasks.games import rom_name
from blip_rl.untrusted.machine import check_memory, memory_bytes

_PATIENCE_SECONDS = 10
_WORKER_BYTES = 250_000_000  # of a worker process after importing torch and Gymnasium
_GAMES_OVER, _PLAYED, _REFUSED, _FAILED = "games over", "played", "refused", "failed"


def play_cells(
    player: CellPlayer[Result],
    cells: Sequence[Cell],
    workers: int | None,
    on_games_over: Callable[[int], object],
    kept: str,
) -> Generator[Result, None, None]:
    """Play cells in this process or in workers and yield each result as soon as it is available.

    Args:
        player: Plays a cell and returns its result.
        cells: The cells to play.
        workers: Number of processes. None: for Atari games one per core, or fewer if memory is short; for other games
            no worker, because their episodes take less time than starting a process.
        on_games_over: Called with the number of episodes that have just ended.
        kept: Text for the error message: what happened to the results of finished cells.

    Raises:
        UserError: a checkpoint is damaged or belongs to another run.
        RunError: a game or a worker failed; the message names the cell, ``kept`` and the command to run again.
    """
    if workers is None:
        workers = _default_workers() if any(rom_name(player.task(cell).game) for cell in cells) else 1
    alone = min(workers, len(cells)) == 1
    try:
        yield from (
            play_here(player, cells, on_games_over) if alone else play_in_workers(player, cells, workers, on_games_over)
        )
    except RunError as error:
        raise RunError(f"{error} ({kept}; run again: {command()})") from error


def _default_workers() -> int:
    """Return the number of cores that this process may use, limited by the available memory."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, memory_bytes() // _WORKER_BYTES))


def play_in_workers(
    player: CellPlayer[Result],
    cells: Sequence[Cell],
    workers: int,
    on_games_over: Callable[[int], object],
) -> Generator[Result, None, None]:
    """Play cells in worker processes and yield each result as soon as it is available.

    The workers are stopped when the generator is closed or exhausted.

    Args:
        player: Sent to every worker; each worker loads the stages it needs.
        cells: The cells to play. They are assigned in this order, except that a worker prefers cells of the stage that
            it has loaded.
        workers: Number of processes.
        on_games_over: Called in this process with the number of episodes that have just ended in a worker.

    Raises:
        UserError: a checkpoint is damaged or belongs to another run, or there is too little memory for the workers.
        RunError: a worker died or could not be started, or the game raised an error; the message names the cell.
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
    """Remove and return the next cell: the first one of the stage that the worker has loaded, else the first one."""
    same = [cell for cell in waiting if before is not None and cell.stage == before.stage]
    chosen = (same or waiting)[0]
    waiting.remove(chosen)
    return chosen


class _Worker(Generic[Result]):
    """A worker process and the cell that it plays."""

    def __init__(self, player: CellPlayer[Result]) -> None:
        self._player = player
        context = multiprocessing.get_context(
            "spawn"
        )  # fork is unsafe after torch and the emulator have started threads
        self.connection, theirs = context.Pipe()
        self.cell: Cell | None = None
        self._process = context.Process(target=_serve, args=(theirs, player), daemon=True)
        with _without_main_module():
            self._process.start()
        theirs.close()  # otherwise recv() would not raise EOFError when the worker exits

    def give(self, cell: Cell | None) -> None:
        """Assign a cell to the worker; None leaves it idle."""
        self.cell = cell
        if cell is not None:
            try:
                self.connection.send(cell)
            except OSError as error:
                raise self._death_error() from error

    def answer(self) -> tuple[str, Any]:
        """Receive the next message of the worker.

        Returns:
            Kind of the message and its content.

        Raises:
            UserError: the worker rejected the checkpoint.
            RunError: the worker died or failed.
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
        """Terminate the process; kill it if it does not exit in time."""
        self._process.terminate()
        self._process.join(timeout=_PATIENCE_SECONDS)
        self._process.kill()  # SIGKILL: a stopped process ignores SIGTERM
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


@contextmanager
def _without_main_module() -> Iterator[None]:
    """Hide the main script within the block: a spawned process would run it again, unless it guards against that.

    Workers need nothing from it.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _serve(connection: Connection, player: CellPlayer[Result]) -> None:
    """Main loop of a worker: play the received cells until the connection is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C and stops its workers
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with suppress(OSError):  # stdout → stderr: output of a game must not mix with the parent's table
        os.dup2(2, 1)
    torch.set_num_threads(1)
    with suppress(OSError):  # the parent has exited: there is no recipient for the message
        while True:
            try:
                cell: Cell = connection.recv()
            except EOFError:
                return
            connection.send(_answer(player, cell, lambda count: connection.send((_GAMES_OVER, count))))


def _end_with_parent() -> None:
    """Exit when the parent process dies.

    A killed parent cannot stop its workers, and a worker does not read the pipe during an episode.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _answer(player: CellPlayer[Any], cell: Cell, on_games_over: Callable[[int], object]) -> tuple[str, Any]:
    """Play a cell and return the message for the parent: the result or the error."""
    try:
        return _PLAYED, player.play(cell, on_games_over)
    except UserError as error:
        return _REFUSED, str(error)
    except RunError as error:
        return _FAILED, str(error)
    except Exception as error:
        return _FAILED, f"{type(error).__name__}: {error}"
