"""Files beside the package that must agree: constraints, lock file, documentation site."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_lock_file_has_the_versions_of_the_constraints_and_public_hosts_only():
    text = (ROOT / "uv.lock").read_text(encoding="utf-8")
    locked: dict[str, set[str]] = {}  # a package may have several versions, for other versions of Python
    for package in tomllib.loads(text)["package"]:
        locked.setdefault(package["name"], set()).add(package.get("version"))
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    differing = {name: pin for name, pin in pins.items() if pin not in locked.get(normal(name), {pin})}
    assert not differing, "uv lock -P NAME==VERSION takes a version of constraints.txt into uv.lock"
    assert set(re.findall(r"https?://([^/\"]+)", text)) == {"pypi.org", "files.pythonhosted.org"}


def test_every_page_of_the_documentation_is_in_the_navigation():
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    listed = {line for block in re.findall(r"```{toctree}\n(.*?)```", index, re.DOTALL) for line in block.split()}
    pages = {str(path.relative_to(ROOT / "docs").with_suffix("")) for path in (ROOT / "docs").rglob("*.md")}
    missing = {page for page in pages if not page.startswith("_build")} - {"index"} - listed
    assert not missing, "add it to a toctree in docs/index.md"
