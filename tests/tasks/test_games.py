import subprocess
import sys
from types import SimpleNamespace

import pytest

from blip_rl.errors import UserError
from blip_rl.tasks import games
from blip_rl.tasks.games import atari_roms, check_game, is_atari, is_gymnasium_id, plain_name, rom_name

PAPER_GAMES = ("kung_fu_master", "boxing", "jamesbond", "krull", "riverraid", "space_invaders")


def test_importing_the_module_imports_none_of_the_libraries():
    code = (
        "import sys, blip_rl.tasks.games as games; games.is_atari('pong');"
        "print([m for m in ('ale_py', 'gymnasium', 'numpy', 'torch', 'stable_baselines3') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_roms_are_sorted_and_hold_the_games_of_the_paper():
    roms = atari_roms()
    assert list(roms) == sorted(set(roms))
    assert set(PAPER_GAMES) <= set(roms)
    assert len(roms) > 100


def test_roms_are_exactly_those_ale_py_registers():
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
def test_rom_behind_a_name(game, rom):
    assert rom_name(game) == rom
    assert is_atari(game) == (rom is not None)


def test_gymnasium_ids():
    assert is_gymnasium_id("CartPole-v1")
    assert is_gymnasium_id("gymnasium:CartPole-v1")
    assert is_gymnasium_id("ALE/Pong-v5")
    assert not is_gymnasium_id("pong")
    assert not is_gymnasium_id("CartPole-v99")
    assert not is_gymnasium_id("no_such_package:CartPole-v1")
    assert not is_gymnasium_id("../gymnasium:CartPole-v1")


def test_a_known_game_is_named_by_its_rom_or_id():
    assert check_game("kung_fu_master") == "kung_fu_master"
    assert check_game("ALE/KungFuMaster-v5") == "kung_fu_master"
    assert check_game("CartPole-v1") == "CartPole-v1"
    assert check_game("gymnasium:CartPole-v1") == "gymnasium:CartPole-v1"
    assert check_game("Q*bert") == "qbert"
    assert check_game("cartpole-V1") == "CartPole-v1"
    assert check_game("gymnasium:cartpole-v1") == "gymnasium:CartPole-v1"


def test_spellings_of_two_roms_are_never_the_same():
    assert len({plain_name(rom) for rom in atari_roms()}) == len(atari_roms())


def test_an_exact_id_comes_before_a_rom_of_another_spelling(monkeypatch):
    registered = {"Pong": SimpleNamespace(id="Pong", entry_point="mine:Pong", kwargs={})}
    monkeypatch.setattr(games, "_registry", lambda: registered)
    assert rom_name("Pong") is None
    assert check_game("Pong") == "Pong"
    assert rom_name("pong") == rom_name("PONG") == "pong"


def test_ids_that_differ_in_case_alone_must_be_typed_as_they_are(monkeypatch):
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
        ("cartpole", "unknown game 'cartpole': did you mean CartPole-v1? (blip-rl list games)"),
        ("ALE/Pongg-v5", "unknown game 'ALE/Pongg-v5': did you mean ALE/Pong-v5? (blip-rl list games)"),
    ],
)
def test_an_unknown_game_is_answered_with_the_nearest_name(game, message):
    with pytest.raises(UserError) as caught:
        check_game(game, known_short_names=["kungfu", "boxing"])
    assert str(caught.value) == message


@pytest.mark.parametrize("game", ["foo/Bar-v0", "no_such_package:Bar-v0"])
def test_a_missing_package_is_answered_with_how_to_get_it(game):
    with pytest.raises(UserError, match="install the package that registers it"):
        check_game(game)


def test_a_name_like_nothing_is_answered_with_the_rule():
    with pytest.raises(UserError, match=r"'xyzzy': expected an ALE ROM name .* \(blip-rl list games\)"):
        check_game("xyzzy")


def test_a_rom_for_two_players_is_refused_before_it_ends_the_process():
    with pytest.raises(UserError, match="no single-player mode"):
        check_game("Combat")
