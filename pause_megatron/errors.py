"""Exceptions and exit codes shared by all commands."""

import errno
import os
import re

EXIT_DONE = 0
"""The command succeeded."""
EXIT_INTERNAL = 1
"""A bug in this project. The command prints a traceback; please report it."""
EXIT_USER = 2
"""The user can fix the error: the command prints one line that names the flag or file and the fix."""
EXIT_REQUEUE = 85
"""A signal or a time limit stopped the run after it saved a checkpoint. The same command resumes it, so a batch script
should requeue the job."""
EXIT_LOST_PROCESS = 86
"""A process of the run was killed, crashed or hung; the command prints which one. The same command resumes from the
newest checkpoint. A batch script should requeue the job a limited number of times, because the cause (for example, too
little memory) may recur."""
EXIT_INTERRUPTED = 130
"""Ctrl-C ended the command before it had anything to save, or was pressed twice. Shells use the same code."""


class UserError(Exception):
    """Error that the user can fix: a flag, a path or the content of a file.

    The message is one line, ``<flag or file>: <problem>; <fix>``. The command line prints it without a traceback and
    exits with :data:`EXIT_USER`. It must not be a ``ValueError``: the flag parser catches those when a configuration
    raises them in ``__post_init__``.
    """

    def __init__(self, message: str = "", *log: str) -> None:
        """Escape control characters of ``message``, which may quote a bad file; lines of a ``log`` follow below it."""
        shown = "".join(character if character.isprintable() else repr(character)[1:-1] for character in message)
        super().__init__("\n    ".join([shown, *log]))


class LostProcessError(UserError):
    """Another process of the run was killed, has crashed or hangs; the same command resumes.

    The command line prints it as a :class:`UserError` and exits with :data:`EXIT_LOST_PROCESS`.
    """


_CODE_IN_TEXT = re.compile(r"\(os error (\d+)\)")
_RUST_ERRORS = ("SafetensorError", "Exception")  # safetensors, tokenizers
_TOO_LITTLE_MEMORY = re.compile(
    "out of memory|not enough memory|bad_alloc|can't allocate memory|cannot allocate memory(?! in static TLS)"
    "|can't start new thread|resource temporarily|failed to map segment",
    re.I,
)
"""Texts of libraries that get no memory from the system. Static TLS is not memory in this sense."""
MEMORY_ADVICE = "raise the limit of memory (`ulimit -v`, or that of the job), or use smaller batches or fewer processes"
_QUOTED = 100  # characters of a value in an error
_ADVICE = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free disk space and run the same command again"),
    **dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM), "choose a path that you may use"),
    **dict.fromkeys((errno.ENAMETOOLONG, errno.ELOOP), "choose a shorter or another path"),
    **dict.fromkeys((errno.EEXIST, errno.ENOTDIR, errno.EISDIR), "choose another path"),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "raise `ulimit -n`"),
    **dict.fromkeys((errno.EIO, errno.ESTALE), "check the disk and run the same command again"),
}
"""Errors of the system that are about the user's files or disks, not about this project."""


def system_error(error: BaseException, place: object = None) -> UserError | None:
    """Return ``error`` as an error that the user can fix, about ``place`` or the file that it names; None if it isn't.

    For example, an ``OSError`` of a full disk or of a read-only file system, an error of safetensors or tokenizers
    with its text, or too little memory.
    """
    if lack := _lack_of_memory(error):
        text = lack if len(lack) <= _QUOTED else f"…{lack[-_QUOTED:]}"  # the reason comes last
        return UserError(f"memory: too little for this command ({text}); {MEMORY_ADVICE}")
    if isinstance(error, OSError):
        code, place = error.errno, place or error.filename
    else:
        found = _CODE_IN_TEXT.search(str(error)) if type(error).__name__ in _RUST_ERRORS else None
        code = int(found[1]) if found else None
    if code not in _ADVICE:
        return None
    return UserError(f"{place or 'a file'}: {os.strerror(code)}; {_ADVICE[code]}")


def _lack_of_memory(error: BaseException | None) -> str:
    """Return the text of ``error``, or of one that it followed from, if the system refused memory; empty otherwise."""
    while error:
        text = one_line(error)
        if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
            return text
        if isinstance(error, RuntimeError | ImportError | OSError) and _TOO_LITTLE_MEMORY.search(text):
            return text
        error = error.__cause__ or error.__context__
    return ""


class StoppedEarly(Exception):  # noqa: N818 - a clean stop, not an error
    """The run stopped on request after saving a checkpoint; the same command resumes it.

    The message is one line with the reason and the checkpoint. The command line prints it and exits with
    :data:`EXIT_REQUEUE`.
    """


def one_line(error: BaseException) -> str:
    """Return the text of ``error`` on one line; its type if it has no text. For example, YAML errors have several."""
    return " ".join(str(error).split()) or type(error).__name__


def quoted(value: object) -> str:
    """Return ``value``, which was read from a file, as it appears in an error: on one line and not long."""
    text = repr(value)
    return text if len(text) <= _QUOTED else f"{text[:_QUOTED]}…"


def exit_code(error: BaseException | None) -> int:
    """Return the exit code of a process that ends with ``error``; None means success."""
    if error is None:
        return EXIT_DONE
    if isinstance(error, SystemExit) and not isinstance(error.code, str):
        return error.code or EXIT_DONE
    if system_error(error):
        return EXIT_USER
    kinds = {
        KeyboardInterrupt: EXIT_INTERRUPTED,
        StoppedEarly: EXIT_REQUEUE,
        LostProcessError: EXIT_LOST_PROCESS,  # before its base
        UserError: EXIT_USER,
    }
    return next((code for kind, code in kinds.items() if isinstance(error, kind)), EXIT_INTERNAL)
