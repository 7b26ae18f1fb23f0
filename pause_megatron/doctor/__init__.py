"""``pause-megatron doctor``: checks of a machine, each in its own process with a timeout.

``table.py`` lists the checks, and ``run.py`` runs them, prints a line for each, and writes ``doctor.json``. The modules
``*_checks.py`` hold their functions. A function returns measured figures, raises
:class:`~pause_megatron.errors.UserError` with the problem and its fix, or raises
:class:`~pause_megatron.doctor.check.Skipped` with the reason.
"""
