"""The Hugging Face Hub: push a published folder, and download one as a run folder."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blip_rl.errors import RunError, UserError
from blip_rl.extras import install_command
from blip_rl.sharing.folder import FILES, STAGE_FILES
from blip_rl.shell import shell_command
from blip_rl.untrusted.files import MOST_TASKS, check_contained, printable
from blip_rl.untrusted.machine import in_words, memory_bytes

PREFIX = "hf:"
_PART = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_NAME = re.compile(rf"{_PART}/{_PART}")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,99}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_STAGE = re.compile(r"checkpoints/stage-[0-9]{2,4}/(" + "|".join(re.escape(name) for name in STAGE_FILES) + ")")
_MOST_FILES = len(FILES) + len(STAGE_FILES) * MOST_TASKS
_MOST_TEXT_BYTES = 128_000_000  # as untrusted.tables


@dataclass(frozen=True)
class HubName:
    """``user/name`` on the Hub, and a branch, tag or commit; None: the main branch."""

    repository: str
    revision: str | None


def check_name(name: str) -> str:
    """Return ``user/name``.

    Raises:
        UserError: It is something else.
    """
    if not _NAME.fullmatch(name) or ".." in name:
        raise UserError(f"{name[:120]!r}: expected USER/NAME, as on the Hugging Face Hub")
    return name


def parse(text: str) -> HubName:
    """Parse ``hf:user/name`` or ``hf:user/name@revision``.

    Raises:
        UserError: It is something else.
    """
    name, at, revision = text.removeprefix(PREFIX).partition("@")
    if at and (not _REVISION.fullmatch(revision) or ".." in revision):
        raise UserError(f"{text[:120]!r}: expected a branch, a tag or a commit after @")
    return HubName(check_name(name), revision if at else None)


def check_installed(why: str) -> None:
    """Check that ``huggingface_hub`` is installed.

    Raises:
        UserError: It is not.
    """
    if importlib.util.find_spec("huggingface_hub") is None:
        raise UserError(f"{why} needs the package huggingface_hub: {install_command('hub')}")


def check_can_push(name: str) -> None:
    """Check the name, the package and that there is a token, before anything is written.

    Raises:
        UserError: One of them is missing.
    """
    check_name(name)
    check_installed("--to")
    import huggingface_hub

    if huggingface_hub.get_token() is None:
        raise UserError(
            f"--to {name}: no token of the Hugging Face Hub: expected one with write access (hf auth login, or set "
            "HF_TOKEN)"
        )


def upload_command(folder: Path, name: str, *, private: bool) -> str:
    """Return the command of ``huggingface_hub`` that pushes a published folder, for copying into a shell."""
    return shell_command("hf", "upload", *(["--private"] if private else []), name, folder)


def push(folder: Path, name: str, *, private: bool) -> str:
    """Create a model repository if there is none, and upload a folder.

    Returns:
        Address of the model.

    Raises:
        RunError: The Hub refused it or cannot be reached; the folder is complete.
    """
    import huggingface_hub

    problem = f"'{folder}' is complete, but could not be pushed to {name}"
    with _as_run_errors(problem, upload_command(folder, name, private=private)):
        api = huggingface_hub.HfApi(library_name="blip-rl")
        address = api.create_repo(name, repo_type="model", private=private, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder, repo_type="model", commit_message="Upload a blip-rl run")
        return str(address)


def fetch(text: str) -> Path:
    """Download a published run, or the rest of one, to the cache of blip-rl.

    Only the files of a run that play and score it are downloaded, within bounds.

    Args:
        text: ``hf:user/name`` or ``hf:user/name@revision``.

    Returns:
        The run folder: ``~/.cache/blip-rl/hub/USER--NAME/COMMIT`` (or below ``$XDG_CACHE_HOME``).

    Raises:
        UserError: There is no such model, it is not a run, or too large.
        RunError: The Hub cannot be reached.
    """
    wanted = parse(text)
    check_installed(f"{PREFIX}{wanted.repository}")
    import huggingface_hub
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    api = huggingface_hub.HfApi(library_name="blip-rl")
    with _as_run_errors(f"{PREFIX}{wanted.repository} cannot be downloaded"):
        try:
            info = api.model_info(wanted.repository, revision=wanted.revision, files_metadata=True)
        except (RepositoryNotFoundError, RevisionNotFoundError):
            at = f" at {wanted.revision}" if wanted.revision else ""
            raise UserError(
                f"{PREFIX}{wanted.repository}{at} does not exist on the Hub, or you may not read it (hf auth login)"
            ) from None
        commit = str(info.sha)
        if not _COMMIT.fullmatch(commit):
            raise ValueError(f"the commit of {wanted.repository} is {commit[:80]!r}")
        folder = _cache() / wanted.repository.replace("/", "--") / commit
        names = _checked(wanted.repository, info.siblings or (), folder)
        api.snapshot_download(wanted.repository, revision=commit, local_dir=folder, allow_patterns=names)
    check_contained(folder)
    return folder


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base and Path(base).is_absolute() else Path.home() / ".cache") / "blip-rl" / "hub"


def _checked(repository: str, files: Any, folder: Path) -> list[str]:
    """Return the names of the files to download.

    Raises:
        UserError: It is not a run, or there are too many or too large files.
    """
    sizes = {file.rfilename: int(file.size or 0) for file in files if _is_wanted(file.rfilename)}
    if "config.toml" not in sizes or not any(name.startswith("checkpoints/") for name in sizes):
        raise UserError(f"{PREFIX}{repository} is not a run: it has no config.toml and checkpoints (blip-rl publish)")
    if len(sizes) > _MOST_FILES:
        raise UserError(f"{PREFIX}{repository} has {len(sizes):,} files: expected at most {_MOST_FILES:,}")
    for name, size in sizes.items():
        most = memory_bytes() if name.endswith(".safetensors") else _MOST_TEXT_BYTES
        if size > most:
            raise UserError(f"{PREFIX}{repository}: {name} has {in_words(size)}: expected at most {in_words(most)}")
    _check_space(repository, sum(sizes.values()), folder)
    return sorted(sizes)


def _is_wanted(name: str) -> bool:
    return name in FILES or _STAGE.fullmatch(name) is not None


def _check_space(repository: str, size: int, folder: Path) -> None:
    there = next(parent for parent in folder.parents if parent.exists())
    if size > (free := shutil.disk_usage(there).free):
        raise UserError(
            f"{PREFIX}{repository} has {in_words(size)}, but '{there}' has {in_words(free)} free (make space, or set "
            "XDG_CACHE_HOME)"
        )


@contextmanager
def _as_run_errors(what: str, fix: str = "check the network, then try again") -> Iterator[None]:
    """Turn the errors of huggingface_hub and its HTTP client, which share no base class, into one message."""
    try:
        yield
    except (UserError, RunError):
        raise
    except Exception as error:
        reason = str(error).strip().partition("\n")[0][:300] or type(error).__name__
        raise RunError(f"{what}: {printable(reason)} ({fix})") from error
