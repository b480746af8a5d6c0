"""Runs functions in forks of a process that has imported everything, for the tests of whole processes. Not a test.

    python fork_server.py      reads lines of JSON; for each, forks the processes, says their numbers in a line, and their exit
                               statuses in another when all have ended; or, in one, why there is no such function

A line names a ``function`` of a ``program`` (a file), its ``settings``, for every process the file that gets what it says
(``outputs``), and the seconds after which it is taken to hang (``limit``). Several processes find one another as those that
Lightning's launcher starts. Processes that a function starts itself import nothing of what is imported here: all of it is imported
below ``serve``.
"""

import faulthandler
import importlib
import json
import os
import socket
import sys
import traceback
from pathlib import Path

IMPORTED_WHERE_USED = (
    *("tstar.cli.fit", "tstar.cli.stage_cli", "tstar.cli.validate"),
    *("tstar.evaluation.callbacks", "tstar.stages.callbacks"),
    *("open_clip", "torchvision.models.feature_extraction", "transformers.models.llama.modeling_llama"),
    *("tstar.ops.conv_kernels", "tstar.ops.norm_kernels", "tstar.ops.scan_kernels", "tstar.ops.scan_kernels_backward"),
    *("torch.distributed.algorithms.ddp_comm_hooks", "torch.distributed.checkpoint"),
)
"""What every training or evaluation imports when it first uses it."""


def function_of(program: str, name: str):
    """A function of a file, which is imported once."""
    path = Path(program)
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    return getattr(importlib.import_module(path.stem), name)


def join(rank: int, world: int, port: int) -> None:
    """Set what tells one of several processes where the others are."""
    here = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": world, "NODE_RANK": 0, "LOCAL_RANK": rank}
    os.environ.update({name: str(value) for name, value in here.items()})


def run(function, settings: dict, output: str, limit: float) -> int:
    """The forked process: what it says is added to ``output``; returns its exit status."""
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(file, stream)
    faulthandler.dump_traceback_later(limit, exit=True)
    return function(**settings) or 0


def fork(function, settings: dict, outputs: list, limit: float) -> list[int]:
    """Numbers of the processes, as many as ``outputs``."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank, output in enumerate(outputs):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                if len(outputs) > 1:
                    join(rank, len(outputs), port)
                status = run(function, settings, output, limit)
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)
        children.append(child)
    return children


def exit_status(child: int) -> int:
    """Of a child, when it has ended. It is not reaped yet: until then its number is no other's, and killing it is safe."""
    ended = os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status


def serve() -> None:
    """Answer every line."""
    for module in IMPORTED_WHERE_USED:
        importlib.import_module(module)
    importlib.import_module("torch").set_num_threads(1)
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            function = function_of(asked["program"], asked["function"])
        except Exception:
            print(json.dumps(traceback.format_exc()), flush=True)
            continue
        children = fork(function, asked["settings"], asked["outputs"], asked["limit"])
        print(json.dumps(children), flush=True)
        print(json.dumps([exit_status(child) for child in children]), flush=True)
        for child in children:
            os.waitpid(child, 0)


if __name__ == "__main__":
    serve()
