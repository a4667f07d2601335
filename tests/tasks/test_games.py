"""Resolution of game names: ROMs, Gymnasium ids, spellings and suggestions."""

import re
import sys
from types import SimpleNamespace

import gymnasium
import pytest

from blip_rl.errors import UserError
from blip_rl.tasks import games
from blip_rl.tasks.games import atari_roms, check_game, is_atari, plain_name, rom_name
from blip_rl.tasks.packages import id_with_package

PAPER_GAMES = ("kung_fu_master", "boxing", "jamesbond", "krull", "riverraid", "space_invaders")


def test_roms_are_sorted_and_include_the_games_of_the_paper():
    roms = atari_roms()
    assert list(roms) == sorted(set(roms))
    assert set(PAPER_GAMES) <= set(roms)
    assert len(roms) > 100


def test_roms_are_those_that_ale_py_registers():
    registered = {
        spec.kwargs["game"]
        for name, spec in games._registry().items()
        if name.startswith("ALE/") and name[-3:] == "-v5"
    }
    assert set(atari_roms()) == registered


@pytest.mark.parametrize(
    ("game", "rom"),
    [
        ("space_invaders", "space_invaders"),
        ("ALE/SpaceInvaders-v5", "space_invaders"),
        ("ale_py:ALE/SpaceInvaders-v5", "space_invaders"),
        ("PongNoFrameskip-v4", "pong"),
        ("pongnoframeskip-v4", "pong"),
        ("Pong", "pong"),
        ("Kung Fu Master", "kung_fu_master"),
        ("Kung-Fu Master", "kung_fu_master"),
        ("KUNGFUMASTER", "kung_fu_master"),
        ("ms. pac-man", "ms_pacman"),
        ("ale/kungfumaster-V5", "kung_fu_master"),
        ("ale_py:ALE/Kung_Fu_Master-v5", "kung_fu_master"),
        ("CartPole-v1", None),
        ("nothing", None),
        ("combat", None),
    ],
)
def test_rom_of_a_name(game, rom):
    assert rom_name(game) == rom
    assert is_atari(game) == (rom is not None)


@pytest.mark.parametrize(
    ("game", "name"),
    [
        ("kung_fu_master", "kung_fu_master"),
        ("ALE/KungFuMaster-v5", "kung_fu_master"),
        ("Q*bert", "qbert"),
        ("CartPole-v1", "CartPole-v1"),
        ("cartpole-V1", "CartPole-v1"),
        ("gymnasium:cartpole-v1", "gymnasium:CartPole-v1"),
    ],
)
def test_known_games_resolve_to_their_rom_or_id(game, name):
    assert check_game(game) == name


def test_no_two_roms_share_a_normalised_name():
    assert len({plain_name(rom) for rom in atari_roms()}) == len(atari_roms())


def test_an_exact_id_takes_precedence_over_a_rom_of_another_spelling(monkeypatch):
    registered = {"Pong": SimpleNamespace(id="Pong", entry_point="mine:Pong", kwargs={})}
    monkeypatch.setattr(games, "_registry", lambda: registered)
    assert rom_name("Pong") is None
    assert check_game("Pong") == "Pong"
    assert rom_name("pong") == rom_name("PONG") == "pong"


def test_ids_that_differ_only_in_case_must_be_exact(monkeypatch):
    ids = ("Maze-v0", "MAZE-v0")
    registered = {name: SimpleNamespace(id=name, entry_point="mine:Maze", kwargs={}) for name in ids}
    monkeypatch.setattr(games, "_registry", lambda: registered)
    assert [check_game(name) for name in ids] == list(ids)
    with pytest.raises(UserError, match="unknown game 'maze-v0'"):
        check_game("maze-v0")


@pytest.mark.parametrize(
    ("game", "message"),
    [
        ("kungfoo", "unknown game 'kungfoo': did you mean kungfu? (blip-rl list games)"),
        ("spaceinvader", "unknown game 'spaceinvader': did you mean space_invaders? (blip-rl list games)"),
        ("CartPole-v99", "unknown game 'CartPole-v99': did you mean CartPole-v1? (blip-rl list games)"),
        (
            "../gymnasium:CartPole-v1",
            "unknown game '../gymnasium:CartPole-v1': did you mean CartPole-v1? (blip-rl list games)",
        ),
        ("cartpole", "unknown game 'cartpole': did you mean CartPole-v1? (blip-rl list games)"),
        ("ALE/Pongg-v5", "unknown game 'ALE/Pongg-v5': did you mean ALE/Pong-v5? (blip-rl list games)"),
    ],
)
def test_unknown_games_are_rejected_with_the_nearest_name(game, message):
    with pytest.raises(UserError) as caught:
        check_game(game, known_short_names=["kungfu", "boxing"])
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("game", "message"),
    [
        ("foo/Bar-v0", "install the package that registers it"),
        ("no_such_package:Bar-v0", "install the package that registers it"),
        ("xyzzy", r"'xyzzy': expected an ALE ROM name .* \(blip-rl list games\)"),
        ("Combat", "no single-player mode"),  # loading it would end the process
    ],
)
def test_unknown_games_without_a_near_name_are_rejected_with_the_rule(game, message):
    with pytest.raises(UserError, match=message):
        check_game(game)


@pytest.mark.parametrize(
    ("game", "package"),
    [
        ("MiniGrid-DoorKey-5x5-v0", "minigrid"),
        ("BabyAI-GoToObj-v0", "minigrid"),
        ("MiniWorld-Hallway-v0", "miniworld"),
        ("highway-fast-v0", "highway_env"),
        ("mo-lunar-lander-v3", "mo_gymnasium"),
        ("deep-sea-treasure-concave-v0", "mo_gymnasium"),
        ("FetchReach-v4", "gymnasium_robotics"),
        ("PandaPickAndPlace-v3", "panda_gym"),
        ("Meta-World/MT1", "metaworld"),
    ],
)
def test_ids_of_well_known_packages_are_suggested_with_the_package_and_import_nothing(game, package):
    with pytest.raises(UserError, match=rf"unknown game '{game}': did you mean {package}:{game} "):
        check_game(game)
    assert package not in sys.modules


@pytest.mark.parametrize("game", ["merger", "exit", "MiniGrid", "Panda-v0", "highway"])
def test_other_names_are_not_suggested_with_a_package(game):
    assert id_with_package(game) is None


def test_a_registered_id_needs_no_package(monkeypatch):
    monkeypatch.setitem(gymnasium.registry, "MiniGrid-Mine-v0", gymnasium.spec("CartPole-v1"))
    assert check_game("MiniGrid-Mine-v0")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import no_such_module_at_all", "ModuleNotFoundError: No module named 'no_such_module_at_all'"),
        ("raise AttributeError('numpy has no bool8')", "AttributeError: numpy has no bool8"),
    ],
)
def test_a_package_that_cannot_be_imported_is_named_with_the_reason(code, message, tmp_path, monkeypatch):
    (tmp_path / "broken_games.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=re.escape(f"'broken_games' of the game cannot be imported: {message}")):
        check_game("broken_games:Foo-v0")
