"""Commands as forks of a process that has imported everything, for the tests that kill and repeat them. Not a test.

    python commands_in_forks.py      reads lines of JSON ({"argv": [...], "cwd": ..., "log": ...}), forks a command for each, says
                                     its process number, and its exit status when it has ended

A command leads a session of its own, as one that a shell started, so that all it starts can be killed with it.
"""

import importlib
import json
import os
import sys

IMPORTED_WHERE_USED = (
    *(
        "tstar.cli.fit",
        "tstar.cli.stage_cli",
        "tstar.cli.validate",
        "tstar.evaluation.callbacks",
        "tstar.stages.callbacks",
    ),
    *("open_clip", "torchvision.models.feature_extraction", "transformers.models.llama.modeling_llama"),
    *("tstar.ops.conv_kernels", "tstar.ops.norm_kernels", "tstar.ops.scan_kernels", "tstar.ops.scan_kernels_backward"),
)
"""What every training imports when it first uses it."""


def run(argv: list[str], cwd: str, log: str) -> int:
    """The command in a forked process, its output and errors at the end of a file; returns its exit status."""
    from tstar.cli.main import main

    os.setsid()
    os.chdir(cwd)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(file, stream)
    sys.argv = ["tstar", *argv]
    return main()


def serve() -> None:
    """Fork a command for every line."""
    for module in IMPORTED_WHERE_USED:
        importlib.import_module(module)
    print("ready", flush=True)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                status = run(**json.loads(line))
            except BaseException:
                import traceback

                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    serve()
