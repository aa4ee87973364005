"""Becomes the log server after binding its life to the hub's.

`launch.py HUB_PID LOCK_FD prctl|pipe PROGRAM [ARGUMENT...]`: what must happen in the child between fork and exec
happens here, in a fresh single-threaded process, and not in a `preexec_fn` inside a hub with threads. It is run by
path, without the site packages, and so imports the standard library alone.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process, and what it becomes by exec, when the thread that forked it ends (Linux)."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:  # the hub died before the call above: its signal will never come
        sys.exit("the hub is gone")


def die_with_pipe(lock: int) -> None:
    """The same where there is no prctl: a child of the server kills it when standard input, held by the hub, ends."""
    server = os.getpid()
    if os.fork() == 0:
        os.close(lock)  # the lock means "a server process lives": the watchdog is none
        while os.read(0, 1):
            pass
        if os.getppid() == server:  # still its child, so the pid is still the server's
            os.kill(server, signal.SIGKILL)
        os._exit(0)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)


def main(arguments: Sequence[str]) -> None:
    """Bind this process to its hub, write its pid into the lock file, and exec the server."""
    parent, lock, how, program, *rest = arguments
    if how == "prctl":
        die_with_parent(int(parent))
    else:
        die_with_pipe(int(lock))
    os.umask(0o077)  # events are personal data
    with suppress(OSError):  # the pid is for people to read; a full disk must not keep the server down
        os.ftruncate(int(lock), os.pwrite(int(lock), f"{os.getpid()}\n".encode(), 0))
    os.execv(program, [program, *rest])


if __name__ == "__main__":
    main(sys.argv[1:])
