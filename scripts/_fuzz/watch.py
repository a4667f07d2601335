"""Run one input within limits of time and memory: it is accepted, refused with a message, or fails."""

from __future__ import annotations

import contextlib
import faulthandler
import io
import resource
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Literal

from blip_rl.errors import InterruptedRunError, RunError, UserError

_MOST_LINES = 25
_MOST_LETTERS = 20_000
_CLEAN_CODES = (0, 2)  # done, and bad input
_NO_MEMORY = ("can't allocate memory", "not enough memory", "Unable to allocate")
_PATIENCE = 12
_LEFT_TO_INPUTS = 4 * 2**30  # bytes of address space above what libraries take


class HangError(BaseException):
    """An input took too long; a BaseException, so that ``except Exception`` does not catch it."""


@dataclass(frozen=True)
class Verdict:
    """The outcome of an input; the text of a failure says where and how, and is equal for equal failures."""

    kind: Literal["accepted", "refused", "failed"]
    text: str = ""
    trace: str = ""


def limit_memory() -> None:
    """Limit the address space of this process, so that excessive allocations fail."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    held = next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmSize:"))
    resource.setrlimit(resource.RLIMIT_AS, (held + _LEFT_TO_INPUTS, resource.RLIM_INFINITY))


def judge(attempt: Callable[[], object], seconds: float) -> Verdict:
    """Run one attempt and classify how it ends.

    Args:
        attempt: Calls the project; returning is success.
        seconds: Limit of processor time; the limit of elapsed time is a multiple of it, because the machine may be
            busy.
    """
    try:
        with _timed(seconds), warnings.catch_warnings(), _silent():
            warnings.simplefilter("ignore")
            attempt()
    except (UserError, RunError, InterruptedRunError) as error:
        return _refusal(str(error))
    except SystemExit as error:
        return Verdict("accepted" if error.code == 0 else "refused")
    except HangError as error:
        return _failure(error, f"hung for {seconds:g} s")
    except BaseException as error:
        return _failure(error, f"{type(error).__name__}: {str(error)[:600]!r}")
    return Verdict("accepted")


def check_ending(code: object, command: str, printed: str) -> None:
    """Check how a command ended.

    Raises:
        AssertionError: an unexpected exit code, a traceback, or no message.
    """
    assert code in _CLEAN_CODES, f"exit code {code} after {command}: {printed[:300]}"
    assert "Traceback" not in printed, printed[-2_000:]
    assert code == 0 or printed.strip(), "refused without a word"


def _refusal(message: str) -> Verdict:
    wrong = [sign for sign in _NO_MEMORY if sign in message]
    if wrong:
        return Verdict("failed", f"memory was asked for and refused: {message[:200]}")
    if not message.strip() or message.count("\n") > _MOST_LINES or len(message) > _MOST_LETTERS:
        return Verdict("failed", f"a message of {len(message):,} letters in {message.count(chr(10)) + 1} lines")
    try:
        message.encode("utf-8")
    except UnicodeEncodeError:
        return Verdict("failed", "a message that cannot be printed")
    return Verdict("refused", message)


def _failure(error: BaseException, what: str) -> Verdict:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "blip_rl" in frame.filename]
    where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno} {frames[-1].name}" if frames else "outside"
    return Verdict("failed", f"{where}: {what}", "".join(traceback.format_exception(error))[-4_000:])


@contextlib.contextmanager
def _timed(seconds: float) -> Iterator[None]:
    def ring(number: int, frame: FrameType | None) -> None:
        raise HangError

    for number in (signal.SIGPROF, signal.SIGALRM):
        signal.signal(number, ring)
    faulthandler.dump_traceback_later(
        _PATIENCE * 2 * seconds, exit=True, file=sys.__stderr__
    )  # if no signal is handled
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, _PATIENCE * seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    output: Any = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        yield
