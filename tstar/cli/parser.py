"""What the options of all commands share. Nothing heavy is imported: ``--help`` answers at once."""

import argparse
import shlex
import sys
from typing import Any, NoReturn

USER_MISTAKE = 2


class Parser(argparse.ArgumentParser):
    """argparse with one clear line instead of the whole usage, and no guessing of half-written options."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "allow_abbrev": False})

    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: error: {message}; see {self.prog} --help", file=sys.stderr)
        raise SystemExit(USER_MISTAKE)


def typed_command(without: str | None = None) -> str:
    """This process's command as one types it, wherever the program lies; records and reports carry it.

    Args:
        without: an option that takes no value and is left out: a report that was only written again names what makes it anew.
    """
    return shlex.join(["tstar", *(word for word in sys.argv[1:] if word != without)])


SETTINGS_HELP = """settings:
  Any setting of the recipe can be given as --section.key VALUE and wins over the files, for all stages or for one:
    --data.batch_size 4   --trainer.max_epochs 2   --model.init_args.compressor.name avg_pool
    --stages.align.trainer.max_epochs 3   --evaluation.max_frames 32
  Sections: model, data, trainer (Lightning's Trainer), run, evaluation, seed_everything. --print_config shows what is set.
"""

MOVED_HELP = """settings:
  The checkpoint's recipe can be changed by --section.key VALUE, as where a part or a suite has moved to:
    --model.init_args.language.path DIR   --evaluation.benchmarks.mini-mlvu DIR   --evaluation.fps 4
    --evaluation.missing_media score_rest   --evaluation.baselines [blind]
  Sections: model, data, trainer, evaluation.
"""
