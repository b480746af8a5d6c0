"""The command ``tstar``: what was typed, to the room that does it. Nothing heavy is imported before it is needed."""

import argparse
import importlib
import io
import os
import select
import signal
import sys
from collections.abc import Sequence

from tstar.cli.arguments import add_commands
from tstar.cli.parser import USER_MISTAKE, Parser
from tstar.cli.process import keep_freed_memory, share_cores
from tstar.errors import ConfigError, TstarError, suggest
from tstar.reports.parent_process import stop_with_parent

WITH_SETTINGS = ("fit", "validate", "audit", "ablate", "plan", "profile")
"""Commands that take settings of the recipe beside their options."""
_OUTPUT = 1
"""Number of the process's output."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status is 0, 2 on a user's mistake, 128 + n after signal n. A bug shows its traceback.

    Where nobody reads the output any more, as behind ``| head``, the command ends as by SIGPIPE.
    """
    stop_with_parent()
    keep_freed_memory()
    share_cores()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a model's answers may hold what no encoding has
    arguments, rest = _parse(sys.argv[1:] if argv is None else argv)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # PyTorch asks for large pages: long clips are a fifth quicker
    try:
        status = _dispatch(arguments, rest)
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        if _is_read():  # it was another pipe
            raise
        return 128 + signal.SIGPIPE
    except TstarError as error:
        print(f"tstar: error: {error}", file=sys.stderr)
        return USER_MISTAKE
    except KeyboardInterrupt:
        print("tstar: interrupted", file=sys.stderr)
        return 130


def _is_read() -> bool:
    """Whether anybody reads the output; if not, what is left of it goes nowhere."""
    output = select.poll()
    output.register(_OUTPUT, 0)  # what is wrong with it is always told
    if any(event & select.POLLERR for _, event in output.poll(0)):
        os.dup2(os.open(os.devnull, os.O_WRONLY), _OUTPUT)
        return False
    return True


def _dispatch(arguments: argparse.Namespace, rest: list[str]) -> int:
    """Run the command's module, ``tstar.cli.<command>``."""
    name = {"import": "import_model"}.get(arguments.command, arguments.command.replace("-", "_"))
    module = importlib.import_module(f"tstar.cli.{name}")
    return module.run(arguments, _settings(rest)) if arguments.command in WITH_SETTINGS else module.run(arguments)


def _parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = Parser(prog="tstar", description="Train, compare, measure and use video-token compressors.")
    parser.add_argument("--version", action="store_true", help="print the version and stop")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)
    add_commands(commands)
    known = list(commands.choices)
    first = next((a for a in argv if not a.startswith("-")), None)
    if first is not None and first not in known and argv[0] == first:
        parser.error(f"unknown command '{first}'{suggest(first, known)}")
    arguments, rest = parser.parse_known_args(argv)
    if arguments.version:
        from tstar import __version__

        print(f"tstar {__version__}")
        raise SystemExit(0)
    if arguments.command is None:
        parser.print_help()
        raise SystemExit(USER_MISTAKE)
    if rest and arguments.command not in WITH_SETTINGS:
        commands.choices[arguments.command].error(f"unknown argument {rest[0]}")
    return arguments, rest


def _settings(rest: list[str]) -> list[tuple[str, str]]:
    """``--key value`` and ``--key=value`` pairs that argparse does not know."""
    pairs = []
    words = iter(rest)
    for word in words:
        if not word.startswith("--"):
            raise ConfigError(f"unexpected argument '{word}'; settings are given as --section.key VALUE")
        key, equals, value = word[2:].partition("=")
        if not equals:
            value = next(words, "")
            if not value:
                raise ConfigError(f"--{key} has no value; settings are given as --section.key VALUE")
        pairs.append((key, value))
    return pairs


if __name__ == "__main__":
    sys.exit(main())
