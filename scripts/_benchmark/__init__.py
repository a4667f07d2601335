"""What ``scripts/benchmark.py`` measures: a module, or an object, for each of its verbs, and what they share.

Each verb has ``add_options`` (of its parser), ``check`` (UserError for what cannot be done), ``measure`` (options →
results fit for JSON) and ``report`` (results → Markdown).
"""
