import pytest

from blip_rl.errors import UserError
from blip_rl.recipes import RecipeError, resolve
from blip_rl.recipes.files import recipe_folder


@pytest.fixture(scope="session")
def problems():
    """Resolve something that is wrong; return the lines that say so."""

    def lines(*arguments, **options):
        with pytest.raises(RecipeError) as caught:
            resolve(*arguments, **options)
        return caught.value.problems

    return lines


@pytest.fixture(scope="session")
def outcome():
    """Return what a function returned, or the message of its UserError; any other error fails the test."""

    def call(function, *arguments, **options):
        try:
            return function(*arguments, **options), ""
        except UserError as error:
            return None, str(error)

    return call


@pytest.fixture
def agent_file(tmp_path):
    """Write an agent recipe: blip.toml with a piece of text replaced."""
    source = (recipe_folder("agents") / "blip.toml").read_text(encoding="utf-8")

    def write(old="", new=""):
        assert old in source
        path = tmp_path / "mine.toml"
        path.write_text(source.replace(old, new, 1), encoding="utf-8")
        return str(path)

    return write


@pytest.fixture
def sequence_file(tmp_path):
    """Write a sequence recipe."""

    def write(text):
        path = tmp_path / "mine.toml"
        path.write_text(f'description = "mine"\n{text}', encoding="utf-8")
        return str(path)

    return write
