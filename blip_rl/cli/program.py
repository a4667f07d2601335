"""The program ``blip-rl``: its verbs, and what each way of ending says to the shell."""

from __future__ import annotations

import os
import sys
import threading
import warnings
from typing import NoReturn

import click

from blip_rl import __version__
from blip_rl.cli.adopt import import_zip
from blip_rl.cli.evaluate import evaluate
from blip_rl.cli.export import export
from blip_rl.cli.group import Verbs
from blip_rl.cli.inspect import inspect_folder
from blip_rl.cli.list import list_names
from blip_rl.cli.render import render
from blip_rl.cli.report import report
from blip_rl.cli.train import train
from blip_rl.errors import InterruptedRunError, RunError
from blip_rl.untrusted.files import printable

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
    # Threads that wait for work should sleep: spinning ones starve the emulator, and with other programs on the machine
    # slow training several times (docs/performance.md). Read when torch loads, so it must be set before.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    # Jupyter and Colab pass theirs to child processes. Where it is not installed, matplotlib cannot be imported, and
    # stable-baselines3 before 2.9 imports it.
    os.environ["MPLBACKEND"] = "agg"
    warnings.showwarning = _show_warning
    threading.excepthook = _end_thread
    try:
        code = cli.main(prog_name="blip-rl", standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        code = _INTERRUPTED
    except BrokenPipeError:
        code = _leave_broken_pipe()
    except InterruptedRunError as error:
        click.echo(str(error), err=True)
        code = 128 + error.signal_number
    except (RunError, OSError) as error:
        # A full disk or a folder that may not be written: the system's message says it all.
        click.echo(f"Error: {printable(str(error))}", err=True)
        code = 1
    sys.exit(code or 0)


def _show_warning(message: Warning | str, *_where: object, **_more: object) -> None:
    """Print what a warning says, without the line of code that raised it."""
    click.echo(f"Warning: {printable(str(message))}", err=True)


def _end_thread(ended: threading.ExceptHookArgs) -> None:
    """A full disk met by the thread that writes TensorBoard's events: the run hears of it at its next write."""
    if not isinstance(ended.exc_value, OSError):
        threading.__excepthook__(ended)


def _leave_broken_pipe() -> int:
    """Whoever read the output has gone, as with ``| head``: let the interpreter's last flush go nowhere, quietly."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1
