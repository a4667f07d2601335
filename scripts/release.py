"""Check that the checkout can be released as its version, build and check sdist and wheel, and print the steps left.

Uploads nothing, and changes nothing but ``dist/``. Usage: ``python scripts/release.py`` after the version has been
written into ``blip_rl/__init__.py``, ``CITATION.cff`` and ``CHANGELOG.md``; takes about three minutes. ``--agents
RUN...`` also packs the agents of finished runs, as ``blip-rl publish --half`` writes them, into an archive.
"""

from __future__ import annotations

import argparse
import datetime
import re
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from collections.abc import Sequence
from pathlib import Path

from check_wheel import check_wheel

ROOT = Path(__file__).resolve().parent.parent
SOURCES = {
    "blip_rl/__init__.py": r'^__version__ = "(.+)"$',
    "CITATION.cff": r"^version: (\S+)$",
}
MOST_BYTES = 2_000_000
"""Of each file in the archive of agents."""


def problems(root: Path) -> list[str]:
    """Return why a checkout cannot be released: versions that differ, no section of the changelog, uncommitted changes.

    Args:
        root: Folder of the checkout.
    """
    found = {name: _only(root / name, pattern) for name, pattern in SOURCES.items()}
    version, *others = dict.fromkeys(found.values())
    lines = []
    if others or version is None:
        lines.append(f"versions: {found}: expected the same in each")
    changelog = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    section = re.search(r"^## \[(?!Unreleased)(.+?)\] - (\S+)$", changelog, re.MULTILINE)
    newest = section[1] if section else None
    if newest != version:
        lines.append(
            f"CHANGELOG.md: its newest release is {newest}: expected {version} (move the entries below [Unreleased] "
            f"under '## [{version}] - {datetime.date.today()}')"
        )
    elif section and not _is_date(section[2]):
        lines.append(f"CHANGELOG.md: [{version}] has the date {section[2]}: expected YYYY-MM-DD")
    if changed := _git(root, "status", "--porcelain"):
        lines.append(f"uncommitted changes: {', '.join(line[3:] for line in changed.splitlines()[:5])}: commit them")
    return lines


def _only(path: Path, pattern: str) -> str | None:
    found = re.findall(pattern, path.read_text(encoding="utf-8"), re.MULTILINE)
    return found[0] if len(found) == 1 else None


def _is_date(text: str) -> bool:
    try:
        datetime.date.fromisoformat(text)
    except ValueError:
        return False
    return True


def _git(root: Path, *words: str) -> str:
    return subprocess.run(["git", "-C", str(root), *words], check=True, capture_output=True, text=True).stdout


def build(root: Path, out: Path) -> tuple[Path, Path]:
    """Build the sdist, and the wheel from the sdist alone, so that a file which the sdist lacks is missed.

    Args:
        root: Folder of the checkout.
        out: Folder to write to; an sdist or wheel in it is replaced.
    """
    for old in [*out.glob("blip_rl-*.tar.gz"), *out.glob("blip_rl-*.whl")]:
        old.unlink()
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(root)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{done.stdout}{done.stderr}\nthe build failed")
    (sdist,), (wheel,) = out.glob("blip_rl-*.tar.gz"), out.glob("blip_rl-*.whl")
    return sdist, wheel


def missing(sdist: Path, root: Path) -> list[str]:
    """Return the tracked files that ``pyproject.toml`` asks for and the sdist lacks.

    Args:
        sdist: The file.
        root: Folder of the checkout.
    """
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    asked = project["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    with tarfile.open(sdist) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    return [name for name in _git(root, "ls-files", "--", *asked).splitlines() if name not in inside]


def pack_agents(runs: Sequence[Path], archive: Path) -> None:
    """Write a tar archive of run folders that are only played, in half precision where their policies stay the same.

    Args:
        runs: Finished runs; each becomes a folder with the name of its own.
        archive: The file to write, ``NAME.tar.gz``; its folders are in one called NAME.

    Raises:
        ValueError: A run is not finished or damaged, two have one name, or a file would be too large.
    """
    import blip_rl as br

    if len({run.resolve().name for run in runs}) < len(runs):
        raise ValueError("--agents: two runs have the same name: expected different ones (rename one)")
    root = archive.name.removesuffix(".tar.gz")
    with tempfile.TemporaryDirectory() as made:
        files: list[Path] = []
        for run in runs:
            folder = br.publish(run, out=Path(made) / run.resolve().name, half=True).path
            files += sorted(path for path in folder.rglob("*") if path.is_file())
            for file in files:
                if (size := file.stat().st_size) > MOST_BYTES:
                    raise ValueError(
                        f"--agents: {file.relative_to(made)} has {size:,} bytes: expected at most {MOST_BYTES:,} "
                        "(leave the run out, or train a smaller network)"
                    )
        archive.parent.mkdir(exist_ok=True)
        with tarfile.open(archive, "w:gz") as tar:
            for file in files:
                tar.add(file, f"{root}/{file.relative_to(made)}", filter=_without_owner)


def _without_owner(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    entry.mode = 0o644
    return entry


def main(arguments: Sequence[str] | None = None) -> None:
    """Check, build, check what was built, and print what is left to do."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", nargs="+", type=Path, default=[], metavar="RUN", help="finished runs to pack")
    runs = parser.parse_args(arguments).agents
    if lines := problems(ROOT):
        sys.exit("\n".join(["cannot be released:", *(f"  {line}" for line in lines)]))
    version = _only(ROOT / "blip_rl/__init__.py", SOURCES["blip_rl/__init__.py"])
    agents = ROOT / "dist" / f"blip-rl-agents-{version}.tar.gz"
    try:
        if runs:  # first, as a run may be refused
            pack_agents(runs, agents)
    except ValueError as error:
        sys.exit(str(error))
    sdist, wheel = build(ROOT, ROOT / "dist")
    if lacking := missing(sdist, ROOT):
        sys.exit(f"{sdist} lacks {', '.join(lacking)}: see include in pyproject.toml")
    check_wheel(wheel)
    print(f"""
{sdist}
{wheel}
are built and checked. Left to do, by hand:

  make test && make docs && make floors
  git tag -a v{version} -m "blip-rl {version}" && git push origin v{version}
  python -m pip install twine && python -m twine check --strict dist/blip_rl-{version}*
  python -m twine upload dist/blip_rl-{version}*""")
    if runs:
        print(f"  attach {agents} to the release v{version} where the repository is hosted")


if __name__ == "__main__":
    main()
