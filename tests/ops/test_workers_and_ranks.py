"""The CPU kernels where a training run calls them: in a DataLoader's worker, in several Python threads, in two ranks."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from tstar.nn import BidirectionalMambaMixer
from tstar.ops import selective_scan
from tstar.ops.backends import numba_missing
from tstar.ops.samples import LAYOUTS, sample_inputs

REPOSITORY = Path(__file__).parents[2]
SIZES = {"B": 2, "L": 70, "I": 96, "S": 4}  # more tiles than threads

pytestmark = pytest.mark.skipif(numba_missing() is not None, reason=str(numba_missing()))


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def scan(seed: int) -> torch.Tensor:
    inputs = sample_inputs("selective_scan", SIZES, LAYOUTS["selective_scan"], seed=seed)
    given = {name: t.float() if t.is_floating_point() else t for name, t in inputs.items()}
    return selective_scan(**given, backend="cpu")


class Scans(Dataset):
    """Scans that a worker makes, on as many threads as asked for."""

    def __init__(self, threads: int) -> None:
        self.threads = threads

    def __len__(self) -> int:
        return 4

    def __getitem__(self, seed: int) -> torch.Tensor:
        torch.set_num_threads(self.threads)
        return scan(seed)


@pytest.mark.parametrize("threads", [1, 2])  # a worker has one, unless it asks for more
def test_a_forked_worker_scans_after_its_parent_did(two_threads, threads):
    expected = [scan(seed) for seed in range(4)]  # the parent's helper threads exist from here on
    loader = DataLoader(Scans(threads), batch_size=None, num_workers=2, multiprocessing_context="fork", timeout=60)
    for ours, right in zip(loader, expected, strict=True):
        assert torch.equal(ours, right)
    assert torch.equal(scan(0), expected[0])  # and the parent goes on


def test_threads_may_call_at_the_same_time(two_threads):
    expected = [scan(seed) for seed in range(4)]
    different, ready = [], threading.Barrier(4)

    def call(seed: int) -> None:
        torch.set_num_threads(2)
        ready.wait(60)
        different.extend(n for n in range(20) if not torch.equal(scan(seed), expected[seed]))

    callers = [threading.Thread(target=call, args=(seed,), daemon=True) for seed in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(60)
    assert not any(caller.is_alive() for caller in callers)
    assert different == []


RANK = """
import os, sys, torch, torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from tstar.nn import BidirectionalMambaMixer
rank, folder = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(2)
dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
mixer = BidirectionalMambaMixer(32, 4)
mixer.load_state_dict(torch.load(f"{folder}/weights.pt"))
x, mask = (t[rank : rank + 1] for t in torch.load(f"{folder}/batch.pt"))
parallel = DistributedDataParallel(mixer)
for _ in range(2):
    mixer.zero_grad()
    parallel(x, mask).square().mean().backward()
torch.save({name: p.grad for name, p in mixer.named_parameters()}, f"{folder}/gradients{rank}.pt")
dist.destroy_process_group()
os._exit(0)  # gloo's own threads now and then abort an interpreter that shuts down, with any model
"""


@pytest.mark.slow  # two fresh Pythons; losses of two processes are held against one's in tests/stages/test_ddp_equals_one.py
def test_gradients_of_two_ranks_are_the_mean_over_the_whole_batch(tmp_path):
    mixer = BidirectionalMambaMixer(32, 4)
    x, mask = torch.randn(2, 37, 32), torch.ones(2, 37, dtype=torch.bool)
    mask[1, 20:] = False
    torch.save(mixer.state_dict(), tmp_path / "weights.pt")
    torch.save((x, mask), tmp_path / "batch.pt")
    command = [sys.executable, "-c", RANK]  # not forked: an autograd that has used a GPU does not survive it
    ranks = [subprocess.Popen([*command, str(rank), str(tmp_path)], cwd=REPOSITORY) for rank in range(2)]
    try:
        assert [rank.wait(120) for rank in ranks] == [0, 0]
    finally:
        for rank in ranks:
            rank.kill()

    mixer(x, mask).square().mean().backward()
    for number in range(2):
        found = torch.load(tmp_path / f"gradients{number}.pt")
        assert found.keys() == dict(mixer.named_parameters()).keys()
        for name, parameter in mixer.named_parameters():
            torch.testing.assert_close(found[name], parameter.grad, rtol=1e-4, atol=1e-7, msg=name)
