"""The command as a function, for the tests that kill and repeat it. Not a test."""

import os
import sys


def command(argv: list[str], cwd: str) -> int:
    """Exit status. It leads a session of its own, as one that a shell started, so that all it starts can be killed with it."""
    from tstar.cli.main import main

    os.setsid()
    os.chdir(cwd)
    sys.argv = ["tstar", *argv]
    return main()
