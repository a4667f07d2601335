"""Entry point of ``blip-rl``: registers the commands and maps errors to messages and exit codes."""

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
from blip_rl.cli.copy import copy_recipe
from blip_rl.cli.evaluate import evaluate
from blip_rl.cli.export import export
from blip_rl.cli.group import Verbs
from blip_rl.cli.import_ import import_zip
from blip_rl.cli.inspect import inspect_folder
from blip_rl.cli.list import list_names
from blip_rl.cli.publish import publish
from blip_rl.cli.render import render
from blip_rl.cli.report import report
from blip_rl.cli.show import show
from blip_rl.cli.streams import flush_streams, open_closed_streams, print_error
from blip_rl.cli.sweep import sweep
from blip_rl.cli.train import train
from blip_rl.cli.watch import watch
from blip_rl.errors import InterruptedRunError, RunError, error_text, is_out_of_memory
from blip_rl.untrusted.files import printable

_FAILED = 1
_INTERRUPTED = 130  # 128 + SIGINT, the shell convention

_EXAMPLES = """\b
Examples:
  blip-rl train                                     the six games of the paper with BLIP
  blip-rl train --games kungfu,boxing --steps 500k  two games, fewer steps
  blip-rl train --agent finetune --seed 1           baseline without protection
  blip-rl train --set ppo.learning_rate=1e-4        override one setting
  blip-rl train --games pong --dry-run              check and estimate; writes nothing
  blip-rl show blip                                 every setting, its meaning and source
  blip-rl list games                                names that --games accepts
"""


@click.group(
    cls=Verbs,
    epilog=_EXAMPLES,
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True, "max_content_width": 100},
)
@click.version_option(__version__, message="%(prog)s %(version)s", prog_name="blip-rl")
def cli() -> None:
    """Continual reinforcement learning: one PPO agent learns a sequence of games, protected by BLIP or others."""


for _verb in (
    train,
    sweep,
    watch,
    evaluate,
    inspect_folder,
    report,
    render,
    export,
    import_zip,
    publish,
    list_names,
    show,
    copy_recipe,
):
    cli.add_command(_verb)


def main() -> NoReturn:
    """Run the command line and exit: 0 done, 1 failed, 2 bad input, 130 interrupted."""
    open_closed_streams()
    # Idle OpenMP threads should sleep: spinning ones starve the emulator and, on a shared machine, slow training down
    # several times (docs/performance.md). torch reads the variable when it loads, so it must be set first.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    # Child processes inherit the backend of Jupyter or Colab. If that backend is not installed, importing matplotlib
    # fails, and stable-baselines3 before 2.9 imports it.
    os.environ["MPLBACKEND"] = "agg"
    warnings.showwarning = _show_warning
    threading.excepthook = _end_thread
    code = _run()
    unwritten = flush_streams()
    if unwritten is not None and code == 0:
        if unwritten.errno != errno.EPIPE:  # a closed pipe, as with ``| head``, needs no message
            print_error(f"Error: standard output cannot be written: {unwritten.strerror}")
        code = _FAILED
    sys.exit(code)


def _run() -> int:
    """Run the command line, print a message for expected errors and return the exit code."""
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
        # For OSError (disk full, permission denied) the system's message is sufficient.
        print_error(f"Error: {printable(error_text(error))}")
        return _FAILED


def _show_warning(message: Warning | str, *_where: object, **_more: object) -> None:
    """Print the text of a warning without its source location."""
    print_error(f"Warning: {printable(str(message))}")


def _end_thread(ended: threading.ExceptHookArgs) -> None:
    """Ignore OSError in TensorBoard's writer thread: the main thread raises it at its next write."""
    if not isinstance(ended.exc_value, OSError):
        threading.__excepthook__(ended)
