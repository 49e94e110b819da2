"""How a command ends: its exit code, and the one line that says why, with a hint below it.

0. Done. A reader that closes early (`memhooks ... | head`) is no failure.
1. An audit or another check failed.
2. Unusable input or options: the line says what came, what is allowed and what to do.
3. Stopped by --max-minutes; run again, it goes on where it was.
4. The disk: no space, a quota, no permission, or read-only.
70. A fault in memhooks itself.
130. Interrupted from the keyboard.
"""

import errno
import os
import re
import sys
from collections.abc import Callable, Iterator

import typer

from memhooks.errors import InputError, Stopped, in_short

DONE, FAILED, UNUSABLE, STOPPED, DISK, FAULT, INTERRUPTED = 0, 1, 2, 3, 4, 70, 130
CODES = {
    DONE: "done",
    FAILED: "an audit or a check failed",
    UNUSABLE: "unusable input or options",
    STOPPED: "stopped by --max-minutes, run again to go on",
    DISK: "the disk: no space, no permission or read-only",
    FAULT: "a fault in memhooks",
    INTERRUPTED: "interrupted",
}
_USAGE = typer.BadParameter.__mro__[1]  # the error of all unusable options; no public name holds in all versions
_DISK = {
    errno.ENOSPC: ("there is no space left", "free some, or write to another disk"),
    errno.EDQUOT: ("your disk quota is used up", "free some space, or write to another disk"),
    errno.EROFS: ("the file system is read-only", "write to another place"),
    errno.EACCES: ("permission was denied", "allow it, or choose another place"),
    errno.EPERM: ("permission was denied", "allow it, or choose another place"),
}
_WORDS = {  # of libraries that pass on the disk's error as text
    "No space left on device": errno.ENOSPC,
    "StorageFull": errno.ENOSPC,
    "Disk quota exceeded": errno.EDQUOT,
    "Read-only file system": errno.EROFS,
}
_INTERRUPTED = "interrupted; whatever was written is whole, and a command with a run folder goes on when run again"


def ended(command: Callable[[], object], *, debug: bool) -> int:
    """Run the command and say on stderr, in one line and a hint, how it failed, if it did.

    Args:
        command: what to run; an integer that it returns is its exit code.
        debug: show the traceback, too.

    Returns:
        The exit code.
    """
    try:
        code = command()
        sys.stdout.flush()
    except BrokenPipeError:
        _close_quietly()
        return DONE
    except (Exception, KeyboardInterrupt) as error:
        code, line, hint = said(error)
        if debug:
            import traceback

            traceback.print_exception(error, file=sys.stderr)
        if line:  # none where the help was shown for want of a command
            _write(line, "" if debug and code == FAULT else hint)
        return code
    if code == INTERRUPTED:  # typer makes an exit of what came from the keyboard
        _write(_INTERRUPTED, "")
    return code if isinstance(code, int) else DONE


def said(error: BaseException) -> tuple[int, str, str]:
    """The exit code, the line and the hint (which may be empty) of what was raised."""
    if isinstance(error, InputError):
        return UNUSABLE, str(error), ""
    if isinstance(error, Stopped):
        return STOPPED, str(error), ""
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        return INTERRUPTED, _INTERRUPTED, ""
    if isinstance(error, _USAGE):
        return UNUSABLE, *_usage(error)
    if (number := _disk_number(error)) is not None:
        return DISK, _disk_line(error, number), "a command with a run folder then goes on where it was"
    line = f"{type(error).__name__}: {in_short(error)}; this is a fault in memhooks"
    return FAULT, line, "run again with --debug and report what it shows"


def _usage(error: BaseException) -> tuple[str, str]:
    """An unusable option in the words of ours, and where its help is."""
    text = str(getattr(error, "format_message", error.__str__)()).strip().rstrip(".")
    text = re.sub(r"\s*\(Possible options?: (.*)\)", r"; did you mean \1?", text)
    text = re.sub(r"\. Did you mean '(.*)'\?", lambda found: f"; did you mean {found[1].replace(chr(39), '')}?", text)
    context = getattr(error, "ctx", None)
    path = getattr(context, "command_path", "memhooks")
    return text[:1].lower() + text[1:], f"{path} --help says what it takes"


def _disk_number(error: BaseException) -> int | None:
    """The number of the disk's error, also of one that a library repeats in words."""
    for one in _chain(error):
        if isinstance(one, OSError) and one.errno in _DISK:
            return one.errno
        for words, number in _WORDS.items():
            if words in str(one):
                return number
    return None


def _disk_line(error: BaseException, number: int) -> str:
    what, do = _DISK[number]
    names = (one.filename for one in _chain(error) if isinstance(one, OSError) and one.filename is not None)
    path = next(names, None)
    return f"{what}{f' at {os.fsdecode(path)}' if isinstance(path, str | bytes) else ''}; {do}, then run again"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what it came from."""
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _write(line: str, hint: str) -> None:
    from memhooks.terminal import printable

    lines = [f"memhooks: {printable(' '.join(line.split()))}", *([f"hint: {hint}"] if hint else [])]
    try:
        sys.stderr.write("\n".join(lines) + "\n")
    except BrokenPipeError:
        _close_quietly()


def _close_quietly() -> None:
    """Nobody reads any more: what is still to be flushed goes nowhere, without a message at the end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            os.dup2(nowhere, stream.fileno())
        except (OSError, ValueError):  # a test's stream has no number
            continue
