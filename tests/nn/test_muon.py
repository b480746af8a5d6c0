"""One optimizer of two: the same steps as both apart, one state, and which parameters are matrices of a layer."""

import copy

import pytest
import torch
import transformers
from torch import nn

from tstar.compressors import build_compressor
from tstar.nn import muon
from tstar.nn.muon import MuonAdam, hidden_matrices, orthogonalised


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(7, 6)
        self.inner = nn.Linear(6, 5)
        self.square = nn.Sequential(*(nn.Linear(5, 5) for _ in range(3)))
        self.bare = nn.Parameter(torch.randn(5, 4))

    def forward(self, ids):
        return (self.square(self.inner(self.embedding(ids)).tanh()) @ self.bare).square().mean()


def groups_of(model):
    chosen = hidden_matrices(model)
    return [
        {"params": [p for p in model.parameters() if (id(p) in chosen) is muon], "lr": lr, "weight_decay": 0.1, **extra}
        for muon, lr, extra in ((True, 0.02, {"muon": True}), (False, 0.01, {}))
    ]


def steps(model, optimizer, first, last):
    for k in range(first, last):
        optimizer.zero_grad()
        model(torch.arange(k, k + 4) % 7).backward()
        optimizer.step()


def through_the_polynomial(matrix, coefficients, steps, eps=1e-7):
    """What Newton-Schulz iterations do to a matrix's singular values, done to them one by one."""
    a, b, c = coefficients
    given = matrix.double()
    left, values, right = torch.linalg.svd(given / given.square().sum().sqrt().clamp(min=eps), full_matrices=False)
    for _ in range(steps):
        values = a * values + b * values**3 + c * values**5
    return (left @ torch.diag(values) @ right).to(matrix.dtype)


@pytest.mark.parametrize("shape", [(3, 8), (8, 3), (5, 5), (1, 4)])
def test_every_singular_value_goes_through_the_polynomial(shape):
    torch.manual_seed(0)
    coefficients = (3.4445, -4.7750, 2.0315)
    given = torch.randn(2, *shape, dtype=torch.float64)
    found = orthogonalised(given, coefficients, steps=3, dtype=torch.float64)
    for one, other in zip(given, found, strict=True):
        assert torch.allclose(other, through_the_polynomial(one, coefficients, 3), atol=1e-12)
    assert torch.equal(orthogonalised(torch.zeros(1, *shape), coefficients), torch.zeros(1, *shape))


@pytest.mark.parametrize("together", [1, 50, 2**22])  # one at a time, two and one, all
def test_its_steps_are_those_of_both_apart(together, monkeypatch):
    monkeypatch.setattr(muon, "TOGETHER", together)
    monkeypatch.setattr(torch.optim._muon, "_zeropower_via_newtonschulz", through_the_polynomial)  # its own: bfloat16
    ours, theirs = Net(), Net()
    mine = MuonAdam(groups_of(ours), lr=0.01, betas=(0.9, 0.99), eps=1e-8)
    steps(ours, mine, 0, 6)
    matrices, rest = groups_of(theirs)
    matrices.pop("muon")
    apart = torch.optim.Muon([matrices], adjust_lr_fn="match_rms_adamw")
    adam = torch.optim.AdamW([rest], betas=(0.9, 0.99), eps=1e-8)
    for k in range(6):
        for optimizer in (apart, adam):
            optimizer.zero_grad()
        theirs(torch.arange(k, k + 4) % 7).backward()
        apart.step()
        adam.step()
    for found, wanted in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert (found - wanted).norm() <= 1e-4 * wanted.norm()
    states = [optimizer.state[model.inner.weight] for optimizer, model in ((mine, ours), (apart, theirs))]
    assert {*states[0]} == {*states[1]}  # what was saved with torch's is gone on with
    assert mine.param_groups[0].keys() - {"muon"} == apart.param_groups[0].keys()


@pytest.mark.parametrize("stop", [1, 3])
def test_a_saved_state_goes_on_the_same(stop):
    whole, first = Net(), Net()
    steps(whole, MuonAdam(groups_of(whole), lr=0.01), 0, 6)
    optimizer = MuonAdam(groups_of(first), lr=0.01)
    steps(first, optimizer, 0, stop)
    state = copy.deepcopy(optimizer.state_dict())
    second = Net()
    second.load_state_dict(first.state_dict())
    again = MuonAdam(groups_of(second), lr=0.5)  # the rates come with the state
    again.load_state_dict(state)
    steps(second, again, stop, 6)
    for mine, other in zip(second.parameters(), whole.parameters(), strict=True):
        assert torch.equal(mine, other)


def test_a_rate_set_from_outside_is_the_rate_of_the_next_step():
    model = Net()
    optimizer = MuonAdam(groups_of(model), lr=0.01)
    steps(model, optimizer, 0, 2)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    before = [p.clone() for p in model.parameters()]
    steps(model, optimizer, 2, 3)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def names_of(model):
    chosen = hidden_matrices(model)
    return {name for name, p in model.named_parameters() if id(p) in chosen}


def test_matrices_of_layers_only():
    assert names_of(Net()) == {"inner.weight", "square.0.weight", "square.1.weight", "square.2.weight"}
    compressor = build_compressor("mambamia", d_vision=8, d_language=12, grid=(2, 2), preset="tiny")
    found = names_of(compressor)
    assert found
    assert all(name.endswith("weight") for name in found)
    assert {p.ndim for n, p in compressor.named_parameters() if n in found} == {2}
    left = {name.rsplit(".", 1)[-1] for name, p in compressor.named_parameters() if name not in found and p.ndim == 2}
    assert left <= {"A_log", "A_b_log", "query"}
    sizes = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "vocab_size": 20,
    }
    for tied in (True, False):
        llama = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, tie_word_embeddings=tied))
        assert all(".layers." in name for name in names_of(llama))
        assert len(names_of(llama)) == 7
