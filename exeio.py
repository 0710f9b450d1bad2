#!/usr/bin/env python3
"""The door: runs the package that lies beside this file, or says why this Python cannot."""

import os
import sys

if sys.version_info < (3, 9):  # noqa: UP036 - so this file must parse everywhere, even in Python 2
    sys.exit("exeio needs Python 3.9 or newer; this is Python {}.{}".format(*sys.version_info))

HERE = os.path.dirname(os.path.realpath(__file__))


def is_strange(folder):  # type: (str) -> bool
    """Whether an entry of sys.path is this folder or the user's, where a json.py would replace Python's."""
    try:
        return os.path.realpath(folder) in (HERE, os.getcwd()) and folder != os.path.dirname(os.__file__)
    except OSError:  # there is no current folder any more
        return os.path.realpath(folder) == HERE


if __name__ == "__main__":
    sys.path[:] = [folder for folder in sys.path if os.path.isabs(folder) and not is_strange(folder)]
    sys.path.insert(0, HERE)  # for a moment: the package imports nothing before it is known by its name
    try:
        import exeio_core  # noqa: F401
    except ImportError:
        sys.exit("exeio: {} has no folder exeio_core; copy it there, beside exeio.py".format(HERE))  # noqa: UP032
    del sys.path[0]

    from exeio_core.cli import main

    sys.exit(main())
