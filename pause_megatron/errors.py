"""The error a user can mend, the early end that is none, and the exit codes every command ends with."""

EXIT_DONE = 0
"""The command did what was asked."""
EXIT_INTERNAL = 1
"""A fault of this program: a traceback is shown and is worth reporting."""
EXIT_USER = 2
"""Something the user gave has to change: one line says what, and what to do."""
EXIT_REQUEUE = 85
"""The run was asked to stop, saved and left. The same command continues it: a batch script should queue it again."""
EXIT_LOST_PROCESS = 86
"""A process of the run was killed, crashed or froze, and one line names it. The same command continues from the newest
checkpoint: worth queueing again, but only so often, since what ended it (memory that ran out, say) may end it again."""
EXIT_INTERRUPTED = 130
"""Ctrl-C ended the command before it had anything to save, or was pressed twice; as in a shell."""


class UserError(Exception):
    """Something the user gave cannot work: a path, a flag, a file's content.

    The message is one line that says what was given, what was expected and what to do. The command line prints it
    without a traceback and exits with :data:`EXIT_USER`. Not a ``ValueError``: the flag parser would take one raised
    while a configuration checks itself for its own.
    """


class StoppedEarly(Exception):  # noqa: N818 - it is none
    """The run was asked to stop before it was done, has saved, and can be continued; no error.

    The message is one line that says why it stopped and where it continues. The command line prints it and exits with
    :data:`EXIT_REQUEUE`.
    """


def exit_code(error: BaseException | None) -> int:
    """The exit code of a process that ``error``, or nothing, ends."""
    if error is None:
        return EXIT_DONE
    if isinstance(error, SystemExit) and not isinstance(error.code, str):
        return error.code or EXIT_DONE
    kinds = {KeyboardInterrupt: EXIT_INTERRUPTED, StoppedEarly: EXIT_REQUEUE, UserError: EXIT_USER}
    return next((code for kind, code in kinds.items() if isinstance(error, kind)), EXIT_INTERNAL)
