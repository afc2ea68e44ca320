"""Where the data of test servers is: in memory, where there is enough, because no test stages a power cut."""

import os
import tempfile
from pathlib import Path

_MEMORY = Path("/dev/shm")
_ENOUGH_BYTES = 8 << 30
"""What must be free, in the file system and of the machine's memory: many times what a whole run of the tests stores."""


def data_root(*, durable: bool) -> Path:
    """Return the directory to make a server's data directory in. `durable`: on a disk, whatever that costs."""
    return Path(tempfile.gettempdir()) if durable or not _is_roomy() else _MEMORY


def _is_roomy() -> bool:
    try:
        files = os.statvfs(_MEMORY)
        available = Path("/proc/meminfo").read_text().partition("MemAvailable:")[2].split()[0]
    except (OSError, IndexError):
        return False
    room = min(files.f_bavail * files.f_frsize, int(available) << 10)
    return os.access(_MEMORY, os.W_OK | os.X_OK) and room >= _ENOUGH_BYTES
