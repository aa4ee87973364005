"""A disk that takes its time: `fdatasync` made slow in a process and its children, by a preloaded library (Linux)."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Final

_SOURCE: Final = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <unistd.h>
int fdatasync(int fd) {
    static int (*real)(int);
    const char *ms = getenv("SLOW_FDATASYNC_MS");
    if (!real) real = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    if (ms) usleep(atoi(ms) * 1000);
    return real(fd);
}
"""


def compiler() -> str | None:
    """A C compiler, when there is one."""
    return shutil.which("cc")


def slow_disk(directory: Path, milliseconds: int) -> dict[str, str]:
    """The environment under which every `fdatasync` takes so much longer. The library is built in `directory`."""
    library = directory / "slow_disk.so"
    program = compiler()
    if program is None:
        raise FileNotFoundError("a slow disk needs a C compiler (cc)")
    command = [program, "-shared", "-fPIC", "-O1", "-x", "c", "-", "-o", str(library), "-ldl"]
    subprocess.run(command, input=_SOURCE.encode(), check=True)
    return {"LD_PRELOAD": str(library), "SLOW_FDATASYNC_MS": str(milliseconds)}
