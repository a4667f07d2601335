"""The program ``blip-rl``: its verbs, and what each way of ending says to the shell."""

from __future__ import annotations

import errno
import os
import sys
import threading
import warnings
from contextlib import suppress
from typing import NoReturn

import click

from blip_rl import __version__
from blip_rl.cli.evaluate import evaluate
from blip_rl.cli.export import export
from blip_rl.cli.group import Verbs
from blip_rl.cli.import_ import import_zip
from blip_rl.cli.inspect import inspect_folder
from blip_rl.cli.list import list_names
from blip_rl.cli.render import render
from blip_rl.cli.report import report
from blip_rl.cli.streams import flush_streams, open_closed_streams, print_error
from blip_rl.cli.train import train
from blip_rl.errors import InterruptedRunError, RunError, error_text, is_out_of_memory
from blip_rl.untrusted.files import printable

_FAILED = 1
_INTERRUPTED = 130  # 128 + SIGINT, as shells count

_EXAMPLES = """\b
Examples:
  blip-rl train                                     the paper's six games with BLIP
  blip-rl train --games kungfu,boxing --steps 500k  two of them, shorter
  blip-rl train --agent finetune --seed 1           what happens without BLIP
  blip-rl train --set ppo.learning_rate=1e-4        one setting changed
  blip-rl list games                                what --games knows
"""


@click.group(
    cls=Verbs,
    epilog=_EXAMPLES,
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True, "max_content_width": 100},
)
@click.version_option(__version__, message="%(prog)s %(version)s", prog_name="blip-rl")
def cli() -> None:
    """Continual reinforcement learning on Atari: one PPO agent learns game after game, BLIP keeps what it knows."""


for _verb in (train, evaluate, inspect_folder, report, render, export, import_zip, list_names):
    cli.add_command(_verb)


def main() -> NoReturn:
    """Run the command line and exit: 0 done, 1 failed, 2 bad input, 130 interrupted."""
    open_closed_streams()
    # Threads that wait for work should sleep: spinning ones starve the emulator, and with other programs on the machine
    # slow training several times (docs/performance.md). Read when torch loads, so it must be set before.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    # Jupyter and Colab pass theirs to child processes. Where it is not installed, matplotlib cannot be imported, and
    # stable-baselines3 before 2.9 imports it.
    os.environ["MPLBACKEND"] = "agg"
    warnings.showwarning = _show_warning
    threading.excepthook = _end_thread
    code = _run()
    unwritten = flush_streams()
    if unwritten is not None and code == 0:
        if unwritten.errno != errno.EPIPE:  # a reader that has gone, as with ``| head``, needs no message
            print_error(f"Error: standard output cannot be written: {unwritten.strerror}")
        code = _FAILED
    sys.exit(code)


def _run() -> int:
    """Run the command line and return its exit code, with a message for every way it is meant to end."""
    try:
        return int(cli.main(prog_name="blip-rl", standalone_mode=False) or 0)
    except SystemExit as error:  # shell completion
        return error.code if isinstance(error.code, int) else _FAILED
    except click.ClickException as error:
        with suppress(OSError):
            error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return _INTERRUPTED
    except InterruptedRunError as error:
        print_error(str(error))
        return 128 + error.signal_number
    except BrokenPipeError:
        return _FAILED
    except Exception as error:
        if not isinstance(error, RunError | OSError) and not is_out_of_memory(error):
            raise
        # A full disk or a folder that may not be written: the system's message says it all.
        print_error(f"Error: {printable(error_text(error))}")
        return _FAILED


def _show_warning(message: Warning | str, *_where: object, **_more: object) -> None:
    """Print what a warning says, without the line of code that raised it."""
    print_error(f"Warning: {printable(str(message))}")


def _end_thread(ended: threading.ExceptHookArgs) -> None:
    """A full disk met by the thread that writes TensorBoard's events: the run hears of it at its next write."""
    if not isinstance(ended.exc_value, OSError):
        threading.__excepthook__(ended)
