"""Everything that is checked before a run starts; the entry is :func:`mml_ray.preflight.check.check`.

Each rule of a setting stands in the options of its group, which are built here; what is added needs two groups, a name that somebody
registered, or a task. A mode is known by its :class:`~mml_ray.preflight.facts.ModeFacts` alone.
"""
