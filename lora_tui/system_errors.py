"""What the system refuses (disk, memory, descriptors, names, permissions), told in words that say what to do.

Such an error can come from any line that opens, writes or allocates. It is the machine's state and not a bug of ours,
so the last handler asks here before it calls a failure unexpected.
"""

import errno
import os
import re

from lora_tui.errors import LoraTuiError
from lora_tui.text import one_line

_GO_ON = "A run that was under way goes on with --resume."
_NO_MEMORY = re.compile(
    r"can't allocate memory|cannot allocate memory|out of memory|unable to allocate|failed to map segment",
    re.IGNORECASE,
)
_LEAST_ADDRESS_SPACE = 1 << 30
"""Bytes below which no run begins: where its libraries find none, OpenBLAS ends the process, or never returns."""

_NO_THREAD = re.compile(r"can't start new thread|thread constructor failed|pthread_create", re.IGNORECASE)


def explain(problem: BaseException) -> LoraTuiError | None:
    """Return the error to show for what the system refused, also where another was raised from it; else None."""
    seen: BaseException | None = problem
    for _ in range(5):
        if seen is None:
            return None
        if (found := _explain(seen)) is not None:
            return found
        seen = seen.__cause__
    return None


def require_address_space() -> None:
    """Raise `LoraTuiError` where the process may use less memory (ulimit -v) than any run needs."""
    try:
        import resource

        allowed = resource.getrlimit(resource.RLIMIT_AS)[0]
    except (ImportError, OSError):  # another system, or no descriptor left: what is missing shows in its own place
        return
    if 0 <= allowed < _LEAST_ADDRESS_SPACE:
        raise LoraTuiError(
            f"A run needs at least {_LEAST_ADDRESS_SPACE >> 20} MB of memory, and may use {allowed >> 20} MB: "
            "raise the limit (ulimit -v)."
        )


def _explain(problem: BaseException) -> LoraTuiError | None:
    if isinstance(problem, OSError) and problem.errno is not None:
        return _explain_os_error(problem)
    said = str(problem)
    if isinstance(problem, MemoryError) or (
        isinstance(problem, RuntimeError | ImportError) and _NO_MEMORY.search(said)
    ):
        return LoraTuiError(f"Memory ran out. Close other programs, or raise the limit (ulimit -v). {_GO_ON}")
    if isinstance(problem, ImportError) and os.strerror(errno.EMFILE) in said:
        return _explain_os_error(OSError(errno.EMFILE, said))
    if isinstance(problem, RuntimeError) and _NO_THREAD.search(said):
        return LoraTuiError(
            f"The system starts no further thread: raise the limit (ulimit -u), or free memory. {_GO_ON}"
        )
    return None


def _explain_os_error(problem: OSError) -> LoraTuiError | None:
    named = f" ({one_line(str(problem.filename), 200)})" if problem.filename is not None else ""
    reason = problem.strerror or str(problem)
    match problem.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return LoraTuiError(f"The disk is full{named}. Free some space. {_GO_ON}")
        case errno.EMFILE | errno.ENFILE:
            most = _most_files()
            return LoraTuiError(
                f"Too few files may be open at once{most}. Raise the limit with ulimit -n 1024. {_GO_ON}"
            )
        case errno.ENOMEM:
            return LoraTuiError(f"Memory ran out{named}. Close other programs, or raise the limit. {_GO_ON}")
        case errno.EAGAIN if problem.filename is None:
            return LoraTuiError(f"The system starts no further process: raise the limit (ulimit -u). {_GO_ON}")
        case errno.ENAMETOOLONG:
            return LoraTuiError(f"A name is too long for this disk{named}. Choose a shorter one.")
        case errno.EIO | errno.ENXIO | errno.ESTALE | errno.ENOTCONN:
            return LoraTuiError(f"The disk does not answer{named}: {reason}. Check it (unplugged, broken?). {_GO_ON}")
        case errno.EROFS | errno.EACCES | errno.EPERM:
            return LoraTuiError(f"{reason}{named}. Change its permissions, or choose another place.")
        case errno.ENOENT | errno.ENOTDIR | errno.EISDIR | errno.ELOOP | errno.EFBIG if problem.filename is not None:
            return LoraTuiError(f"{one_line(str(problem.filename), 200)} cannot be used: {reason}.")
    return None


def _most_files() -> str:
    try:
        import resource

        return f" (ulimit -n is {resource.getrlimit(resource.RLIMIT_NOFILE)[0]})"
    except (ImportError, OSError):  # without descriptors even this may fail
        return ""
