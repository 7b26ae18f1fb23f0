"""The error a user can mend, and the exit codes every command ends with."""

EXIT_DONE = 0
"""The command did what was asked."""
EXIT_INTERNAL = 1
"""A fault of this program: a traceback is shown and is worth reporting."""
EXIT_USER = 2
"""Something the user gave has to change: one line says what, and what to do."""


class UserError(Exception):
    """Something the user gave cannot work: a path, a flag, a file's content.

    The message is one line that says what was given, what was expected and what to do. The command line prints it
    without a traceback and exits with :data:`EXIT_USER`. Not a ``ValueError``: the flag parser would take one raised
    while a configuration checks itself for its own.
    """
