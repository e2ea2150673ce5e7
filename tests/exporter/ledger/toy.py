"""A toy filesystem, and the truth about what the ledger can know of it."""

from fstat_cache import FileStats


class File:
    """A file and what a perfect ledger would have booked of it.

    Attributes:
        written: all that was ever appended to it, less what was cut off before it was known.
        unseen: of that, what was appended since the latest look.
        lost: what was there to be seen at no look: it was cut off before, or hidden by what was appended afterwards.
        is_known: whether it was seen under a declared name.
    """

    def __init__(self, number: int, birth_ns: int) -> None:
        self.number = number
        self.birth_ns = self.mtime_ns = birth_ns
        self.size = self.size_seen = 0
        self.written = self.unseen = self.lost = 0
        self.is_cut = self.is_known = False

    @property
    def stats(self) -> FileStats:
        """What a look at it sees now."""
        return FileStats(self.size, self.mtime_ns, self.number, 1, self.birth_ns)

    @property
    def booked(self) -> int:
        """What the ledger must have booked."""
        return self.written - self.lost - self.unseen if self.is_known else 0

    def look(self, *, is_declared: bool) -> FileStats:
        """Have the truth know of a look, and return what it sees."""
        if self.is_known and self.is_cut and self.size >= self.size_seen:
            self.lost += self.size_seen  # it seems to have only grown
        self.is_known |= is_declared
        if self.is_known:
            self.unseen, self.size_seen, self.is_cut = 0, self.size, False
        return self.stats


class Disk:
    """Names and what they lead to. Numbers of files without a name are given again at once, as ext4 does."""

    def __init__(self) -> None:
        self.names: dict[str, File] = {}
        self.files: list[File] = []
        self.now_ns = 0

    def tick(self) -> int:
        """Let time pass."""
        self.now_ns += 1
        return self.now_ns

    def create(self, name: str) -> File:
        """Make an empty file in the place of whatever is there."""
        taken = {file.number for file in self.names.values()}
        file = File(next(number for number in range(1, 100) if number not in taken), self.tick())
        self.names[name] = file
        self.files.append(file)
        return file

    def append(self, file: File, size: int) -> None:
        """Write at its end."""
        file.size += size
        file.written += size
        file.unseen += size
        file.mtime_ns = self.tick()

    def empty(self, file: File) -> None:
        """Cut it down to nothing."""
        if file.is_known:
            file.lost += file.unseen
        else:
            file.written = 0
        file.size = file.unseen = 0
        file.is_cut = True
        file.mtime_ns = self.tick()
