"""A small JSON service over the files of one folder: `GET /cache/<name>` and `GET /stat/<name>`.

By hand:                       python examples/flask_app.py [FOLDER]
Under a pre-forking server:    gunicorn --chdir examples --preload --workers 2 'flask_app:create_app("/tmp")'
"""

import argparse
import errno
import os

from flask import Flask, abort, jsonify
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import HTTPException

from fstat_cache import FileStats, FStatCache


def create_app(folder: str | os.PathLike[str]) -> Flask:
    """Make the application for the files beneath `folder`.

    The cache may be made here, before a server forks: it starts nothing before the first look-up, and in a forked
    worker it arms itself anew.
    """
    root = os.path.realpath(folder)
    cache = FStatCache()
    app = Flask(__name__)
    app.url_map.merge_slashes = False  # `/cache//etc/passwd` names an absolute path: not found, rather than redirected

    def resolve(name: str) -> str:
        """The real path of `name`; 404 when `..`, an absolute name or a symlink leads out of the folder."""
        try:
            path = os.path.realpath(os.path.join(root, name))
        except ValueError:  # a null byte
            abort(404)
        if os.path.commonpath([root, path]) != root:
            abort(404)
        return path

    def answer(stats: FileStats | None) -> ResponseReturnValue:
        return abort(404) if stats is None else jsonify(stats.as_dict())

    @app.get("/cache/<path:name>")
    def from_cache(name: str) -> ResponseReturnValue:
        return answer(cache.get_file_stats(resolve(name)))

    @app.get("/stat/<path:name>")
    def from_stat(name: str) -> ResponseReturnValue:
        return answer(FStatCache.get_file_stats_using_stat(resolve(name)))

    @app.errorhandler(OSError)
    def unreachable(error: OSError) -> ResponseReturnValue:
        """A name that is too long, loops or leads through a closed folder is not found; the rest is our own fault."""
        if error.errno not in (errno.ENAMETOOLONG, errno.ELOOP, errno.EACCES):
            raise error
        return jsonify(error="Not Found"), 404

    @app.errorhandler(HTTPException)
    def as_json(error: HTTPException) -> ResponseReturnValue:
        return jsonify(error=error.name), error.code or 500

    return app


def main() -> None:
    """Serve one folder on the loopback."""
    parser = argparse.ArgumentParser(description="Sizes and times of the files of a folder.")
    parser.add_argument("folder", nargs="?", default="/tmp", help="the folder served (default: %(default)s)")
    parser.add_argument("--port", type=int, default=5000, help="port on 127.0.0.1 (default: %(default)s)")
    options = parser.parse_args()
    if not os.path.isdir(options.folder):
        parser.error(f"{options.folder} is not a folder")
    create_app(options.folder).run(port=options.port)


if __name__ == "__main__":
    main()
