"""What the kernel says of this process."""

import re
import select
import threading
import time
from pathlib import Path

from fstat_cache.mounts import MountMonitor


def kernel_watches() -> int:
    """How many inotify watches this process has."""
    count = 0
    for info in Path("/proc/self/fdinfo").iterdir():
        try:
            count += info.read_text().count("inotify wd:")
        except FileNotFoundError:
            continue  # the descriptor of the listing itself
    return count


def resident_bytes() -> int:
    """How much memory this process has."""
    found = re.search(r"^VmRSS:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


def times_asleep(thread: threading.Thread) -> int:
    """How often a thread has gone to sleep of its own accord so far."""
    status = Path(f"/proc/self/task/{thread.native_id}/status").read_text()
    found = re.search(r"^voluntary_ctxt_switches:\s+(\d+)", status, re.MULTILINE)
    assert found is not None
    return int(found[1])


def times_woken_when_idle(thread: threading.Thread) -> int:
    """How often a thread wakes up in a second and a half, three ticks, in which nothing happens."""
    mounts = select.poll()
    monitor = MountMonitor()
    mounts.register(monitor.fd, select.POLLPRI)
    something_else_happened = True
    while something_else_happened:  # a mount anywhere on the machine wakes it up, and should
        time.sleep(0.3)
        mounts.poll(0)
        asleep = times_asleep(thread)
        time.sleep(1.5)
        woken = times_asleep(thread) - asleep
        something_else_happened = bool(mounts.poll(0))
    monitor.close()
    return woken
