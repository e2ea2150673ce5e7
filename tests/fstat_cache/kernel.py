"""What the kernel says of this process."""

import re
import threading
from pathlib import Path


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
