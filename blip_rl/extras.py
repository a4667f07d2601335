"""How a missing extra of the package is installed where the user is; standard library only."""

from __future__ import annotations

import sys
from pathlib import Path

from blip_rl.shell import shell_command

_ROOT = Path(__file__).resolve().parent.parent


def install_command(extra: str) -> str:
    """Return the shell command that installs an extra, for messages about a package that is missing.

    In a checkout the extra is that of the checkout's ``pyproject.toml``, which may be newer than any release; elsewhere
    it is that of the installed package. In an environment that uv created there is no pip, so uv installs it.

    Args:
        extra: Name of the extra in ``pyproject.toml``, for example ``minatar``.
    """
    program = ("uv", "pip", "install") if _made_by_uv() else ("pip", "install")
    if not (_ROOT / "pyproject.toml").is_file():
        return shell_command(*program, f"blip-rl[{extra}]")
    where = "." if Path.cwd() == _ROOT else str(_ROOT)
    return shell_command(*program, "-e", f"{where}[{extra}]")


def _made_by_uv() -> bool:
    try:
        described = (Path(sys.prefix) / "pyvenv.cfg").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False  # no virtual environment
    return any(line.partition("=")[0].strip() == "uv" for line in described.splitlines())
