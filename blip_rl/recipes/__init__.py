"""Recipes: find, merge, override and validate them, and report all errors at once.

``files`` finds and reads recipe files, ``games`` resolves ``--games``, ``overrides`` merges layers of settings,
``agent`` resolves an agent, ``resolve`` builds one ``RunConfig``, and ``run_config`` reads and writes that of a run
folder. ``trust`` decides what a file may import. ``settings`` lists every setting, ``explain`` says where its value in
a recipe comes from, and ``copy`` writes a recipe to start from.
"""

from blip_rl.recipe_errors import RecipeError
from blip_rl.recipes.files import GameInfo, RecipeInfo, list_agents, list_games, list_sequences
from blip_rl.recipes.games import split_names
from blip_rl.recipes.resolve import resolve
from blip_rl.recipes.run_config import dump_run_config, load_run_config, parse_run_config, with_defaults
from blip_rl.recipes.trust import trusting

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
    "trusting",
    "with_defaults",
]
