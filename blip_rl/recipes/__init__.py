"""Recipes: found by name or path, merged, overridden, validated, with every mistake named at once.

``files`` finds and reads them, ``games`` knows what ``--games`` means, ``overrides`` lays settings over settings,
``problems`` puts what is wrong into words, and ``resolve`` makes one ``RunConfig`` of it all.
"""

from blip_rl.recipes.files import GameInfo, RecipeInfo, list_agents, list_games, list_sequences
from blip_rl.recipes.games import split_names
from blip_rl.recipes.problems import RecipeError
from blip_rl.recipes.resolve import dump_run_config, load_run_config, parse_run_config, resolve

__all__ = [
    "GameInfo",
    "RecipeError",
    "RecipeInfo",
    "dump_run_config",
    "list_agents",
    "list_games",
    "list_sequences",
    "load_run_config",
    "parse_run_config",
    "resolve",
    "split_names",
]
