"""The verbs of ``scripts/benchmark.py``: a module or an object each, and what they share.

Each verb has ``add_options`` (to its parser), ``check`` (raises UserError for invalid options), ``measure`` (options →
results for JSON) and ``report`` (results → Markdown).
"""
