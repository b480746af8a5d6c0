"""``tstar import``: a language model in another form to a folder that recipes can name."""

import argparse
from pathlib import Path

from tstar.cli.progress import say
from tstar.cli.quiet import quiet_libraries


def run(arguments: argparse.Namespace) -> int:
    """Convert; returns 0."""
    quiet_libraries()
    from tstar.language.gguf import import_gguf

    out = Path(arguments.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    count = import_gguf(Path(arguments.file), out, arguments.dtype)
    say(
        f"{count / 1e6:.1f}M parameters as {arguments.dtype} in {out}; a recipe names it as model.init_args.language.path"
    )
    return 0
