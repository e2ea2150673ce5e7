"""Makes seeded random changes to files, some for each line on standard input, and says when they are done.

usage: changer.py SEED KIND PATH...
KIND told: changes of which the kernel tells the watcher of a file. silent: also those of which it does not: links
pointed elsewhere or removed, directories renamed. one-name: those of which it tells the watcher of its directory,
that is no second names.
"""

import os
import random
import sys


def main(seed: int, kind: str, paths: list[str]) -> None:
    rng = random.Random(seed)
    folders = sorted({os.path.dirname(path) for path in paths})
    open_files: dict[str, int] = {}

    def append(path: str) -> None:
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(fd, b"x" * rng.randint(1, 300))
        os.close(fd)

    def write_to_open_file(path: str) -> None:
        if path not in open_files:
            open_files[path] = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(open_files[path], b"y" * rng.randint(1, 300))
        if rng.random() < 0.3:
            os.close(open_files.pop(path))

    def replace(path: str) -> None:
        with open(f"{folders[0]}/new", "wb") as new:
            new.write(b"z" * rng.randint(0, 300))
        os.replace(f"{folders[0]}/new", path)

    def recreate(path: str) -> None:
        size = os.stat(path).st_size
        os.unlink(path)
        with open(path, "wb") as new:
            new.write(b"r" * size)

    def point_elsewhere(path: str) -> None:
        os.symlink(rng.choice(paths), f"{folders[0]}/new-link")
        os.replace(f"{folders[0]}/new-link", path)

    def swap_folders(path: str) -> None:
        one, other = rng.sample(folders, 2)
        os.rename(one, f"{one}-aside")
        os.rename(other, one)
        os.rename(f"{one}-aside", other)

    changes = [
        append,
        append,
        write_to_open_file,
        write_to_open_file,
        lambda path: os.truncate(path, rng.randint(0, 100)),
        lambda path: os.utime(path, ns=(rng.randint(0, 2**60), rng.randint(0, 2**60))),
        lambda path: os.chmod(path, rng.choice((0o600, 0o644))),
        os.unlink,
        lambda path: os.rename(path, rng.choice(paths)),
        replace,
        recreate,
    ]
    if kind != "one-name":
        changes.append(lambda path: os.link(path, rng.choice(paths)))
    if kind == "silent":
        changes += [point_elsewhere, swap_folders]
    for _ in sys.stdin:
        for _ in range(rng.choice((1, 1, 1, 5, 20))):
            # Half of the changes to three of the files, so that these are hot.
            path, change = rng.choice(paths[:3] if rng.random() < 0.5 else paths), rng.choice(changes)
            try:
                change(path)
            except OSError:
                continue
        print(flush=True)


main(int(sys.argv[1]), sys.argv[2], sys.argv[3:])
