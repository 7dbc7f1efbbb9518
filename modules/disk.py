"""What an operating system says of a full disk, told apart from its other failures."""

import errno

_FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}
_WINDOWS_FULL = 112  # ERROR_DISK_FULL, which has no errno of its own


def is_full(cause: OSError) -> bool:
    """Whether a write failed for want of space, or of what is left of a person's share of it."""
    return cause.errno in _FULL or getattr(cause, "winerror", None) == _WINDOWS_FULL
