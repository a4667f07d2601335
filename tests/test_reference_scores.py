"""The published scores that come with the package, and the words for what normalised scores mean."""

import pytest

from blip_rl.reference_scores import published_scores, scale_text
from blip_rl.tasks.games import atari_roms


def test_the_table_has_the_57_games_of_the_field_by_their_roms():
    scores = published_scores()
    assert len(scores) == 57
    assert set(scores) <= set(atari_roms())
    assert all(human > random for random, human in scores.values())


def test_sums_of_the_columns_are_those_of_the_source():
    """Sums over the table of google-deepmind/dqn_zoo: a mistyped number changes one of them."""
    random, human = (sum(column) for column in zip(*published_scores().values(), strict=True))
    assert random == pytest.approx(50_864.9, abs=0.01)
    assert human == pytest.approx(606_494.2, abs=0.01)


@pytest.mark.parametrize(
    ("references", "text"),
    [
        ([("pong", "human")], "0 = random play, 1 = human"),
        ([("pong", "human"), ("breakout", "human")], "0 = random play, 1 = human"),
        ([("pong", "")], "0 = random play, 1 = the reference score of the recipe"),
        (
            [("pong", "human"), ("kungfu", "PPO"), ("breakout", "human")],
            "0 = random play, 1 = human (pong, breakout), PPO (kungfu)",
        ),
        ([], "0 = random play, 1 = the reference score of the recipe"),
    ],
)
def test_what_0_and_1_mean(references, text):
    assert scale_text(references) == text
