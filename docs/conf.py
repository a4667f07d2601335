"""Sphinx configuration of the documentation site; ``make docs`` builds it with warnings as errors."""

import importlib.metadata

project = "blip-rl"
author = "The blip-rl contributors"
version = release = importlib.metadata.version("blip-rl")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = f"blip-rl {release}"
html_copy_source = False
html_show_sphinx = False

myst_heading_anchors = 3  # links such as runs.md#formulas

autodoc_default_options = {"members": True}
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
napoleon_google_docstring = True
napoleon_use_rtype = False
napoleon_custom_sections = [("Class attributes", "params_style")]
