"""How a run ends before its time: with the cause, what is saved, and the command that goes on from there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from blip_rl.errors import RunError, UserError, error_text, is_out_of_memory
from blip_rl.shell import shell_command
from blip_rl.storage.run_folder import RunFolder
from blip_rl.storage.snapshot_names import snapshot_steps


@contextmanager
def telling_how_to_go_on(folder: RunFolder) -> Iterator[None]:
    """Add to whatever ends the block how the run goes on.

    Raises:
        RunError: the training diverged, a game failed, a file could not be written, memory was not enough.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if isinstance(error, FloatingPointError | OSError | RunError) or is_out_of_memory(error):
            raise RunError(f"{error_text(error)}; {how_to_go_on(folder)}") from error
        error.add_note(how_to_go_on(folder))  # a fault of the program: its traceback is wanted
        raise


def how_to_go_on(folder: RunFolder) -> str:
    """Where the last good state is, and the command that goes on from it."""
    saved = folder.snapshots()
    where = f"saved at step {snapshot_steps(saved[-1]):,}" if saved else "nothing is saved yet"
    return f"{where}; go on with: {shell_command('blip-rl', 'train', '--resume', folder.path)}"
