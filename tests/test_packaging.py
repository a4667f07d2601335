"""Files beside the package that must agree: constraints, lock file, documentation site."""

import re
import tomllib
from pathlib import Path

import blip_rl

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


def test_the_api_pages_have_every_public_name_and_every_module_of_core():
    pages = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "api").glob("*.md"))
    shown = set(re.findall(r"^\.\. auto\w+:: (\S+)$", pages, re.MULTILINE))
    modules = {f"blip_rl.core.{path.stem}" for path in (ROOT / "blip_rl" / "core").glob("*.py")}
    missing = {f"blip_rl.{name}" for name in blip_rl.__all__} | modules - {"blip_rl.core.__init__"}
    assert missing <= shown, "add it to a page in docs/api/"
