"""The plain training loop of the miniature's frozen parts: going on bit for bit, rates by hand, who gets Muon."""

import math

import pytest
import torch
from torch import nn

from tstar.errors import DataError
from tstar.nn.small_training import Schedule, build_optimizers, train

STEPS = 7
SCHEDULE = Schedule(steps=STEPS, lr=3e-2, warmup_steps=3, checkpoint_every=2)


class Net(nn.Module):
    """An embedding, a matrix inside a layer, vectors, a bare matrix and a tied output, as the real models have them."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(11, 6)
        self.inner = nn.Linear(6, 6)
        self.norm = nn.LayerNorm(6)
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
        self.conv = nn.Conv1d(6, 6, 1)
        self.projection = nn.Parameter(torch.randn(6, 6) / 3)
        self.positions = nn.Parameter(torch.randn(5, 6) / 3)
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.out = nn.Linear(6, 11, bias=False)
        self.out.weight = self.words.weight

    def forward(self, ids):
        x = self.words(ids) + self.positions
        x = x + self.attention(x, x, x, need_weights=False)[0]
        x = x + self.conv(self.norm(self.inner(x).relu()).mT).mT
        return self.out(x @ self.projection) * self.scale


def fresh():
    torch.manual_seed(3)
    return Net()


def loss_on(model, stop_before=None):
    """Losses of batches that follow from the step alone; ``stop_before`` is the step at which the power goes."""

    def loss_of(step):
        if step == stop_before:
            raise KeyboardInterrupt
        ids = torch.randint(11, (4, 5), generator=torch.Generator().manual_seed(step))
        return nn.functional.cross_entropy(model(ids).flatten(0, 1), ids.roll(1, 1).flatten())

    return loss_of


def weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


@pytest.fixture(scope="module")
def straight():
    model = fresh()
    history = train(model, loss_on(model), SCHEDULE, None, "same")
    return weights(model), history.losses


@pytest.mark.parametrize("stop", range(STEPS))
def test_a_training_stopped_anywhere_ends_with_the_same_bits(stop, straight, tmp_path):
    state = tmp_path / "deep" / "state.pt"
    model = fresh()
    with pytest.raises(KeyboardInterrupt):
        train(model, loss_on(model, stop), SCHEDULE, state, "same")
    assert state.is_file() == (stop >= SCHEDULE.checkpoint_every)
    torch.manual_seed(99)  # what goes on comes from the file, not from how the model was built
    model, asked = Net(), []
    history = train(model, loss_on(model), SCHEDULE, state, "same", progress=lambda done, total: asked.append(done))
    expected, losses = straight
    assert asked == list(range(stop // 2 * 2 + 1, STEPS + 1))
    if stop >= SCHEDULE.checkpoint_every:
        assert history.losses == losses
        assert all(torch.equal(p, expected[name]) for name, p in weights(model).items())
    assert not list(tmp_path.rglob("*.part"))


def test_a_fresh_start_after_an_early_stop_is_the_same_too(straight, tmp_path):
    model = fresh()
    with pytest.raises(KeyboardInterrupt):
        train(model, loss_on(model, 1), SCHEDULE, tmp_path / "s.pt", "same")
    model = fresh()
    train(model, loss_on(model), SCHEDULE, tmp_path / "s.pt", "same")
    assert all(torch.equal(p, straight[0][name]) for name, p in weights(model).items())


def test_a_finished_training_takes_no_further_step(straight, tmp_path):
    model = fresh()
    first = train(model, loss_on(model), SCHEDULE, tmp_path / "s.pt", "same")
    again = Net()
    history = train(again, lambda step: pytest.fail("nothing was to be done"), SCHEDULE, tmp_path / "s.pt", "same")
    assert (history.losses, history.seconds) == (first.losses, first.seconds)
    assert all(torch.equal(p, straight[0][name]) for name, p in weights(again).items())


@pytest.mark.parametrize(
    ("schedule", "identity"),
    [
        (SCHEDULE, {"seed": 1}),
        (Schedule(steps=STEPS + 1, lr=3e-2, warmup_steps=3, checkpoint_every=2), {"seed": 0}),
        (Schedule(steps=STEPS, lr=2e-2, warmup_steps=3, checkpoint_every=2), {"seed": 0}),
    ],
)
def test_the_state_of_another_training_is_refused_and_kept(schedule, identity, tmp_path, one_line):
    path, model = tmp_path / "s.pt", fresh()
    train(model, loss_on(model), SCHEDULE, path, {"seed": 0})
    before, kept = weights(model), path.read_bytes()
    with pytest.raises(DataError) as caught:
        train(model, loss_on(model), schedule, path, identity)
    one_line(caught.value, str(path), "other settings", "delete it")
    assert path.read_bytes() == kept
    assert all(torch.equal(p, before[name]) for name, p in weights(model).items())


def test_a_damaged_state_is_named(tmp_path, one_line):
    path, model = tmp_path / "s.pt", fresh()
    train(model, loss_on(model), SCHEDULE, path, "same")
    whole = path.read_bytes()
    for data in (b"", b"no state at all", whole[: len(whole) // 2], whole[:-40]):
        path.write_bytes(data)
        with pytest.raises(DataError) as caught:
            train(model, loss_on(model), SCHEDULE, path, "same")
        one_line(caught.value, str(path), "cannot be read", "delete it")
    torch.save([1, 2], path)  # a file of torch's, but no state
    with pytest.raises(DataError, match="cannot be read"):
        train(model, loss_on(model), SCHEDULE, path, "same")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number_stops_the_training(value, tmp_path, one_line):
    model = fresh()
    plain = loss_on(model)
    with pytest.raises(DataError) as caught:
        train(model, lambda k: plain(k) * (value if k == 4 else 1), SCHEDULE, tmp_path / "s.pt", "same")
    one_line(caught.value, str(value), "step 5", "learning rate")
    saved = torch.load(tmp_path / "s.pt", weights_only=True)
    assert len(saved["losses"]) == 4  # the last state is from before it
    assert all(tensor.isfinite().all() for tensor in saved["model"].values())


def test_rates_rise_for_the_warmup_stay_and_fall_to_the_floor():
    schedule = Schedule(steps=1000, lr=1.0, warmup_steps=4, decay=0.5, floor=0.1)
    assert [schedule.share(k) for k in range(5)] == pytest.approx([0.25, 0.5, 0.75, 1, 1])
    assert [schedule.share(k) for k in (250, 500, 600, 750, 900)] == pytest.approx([1, 1, 0.8, 0.5, 0.2])
    assert schedule.share(999) == 0.1
    short = Schedule(steps=30, warmup_steps=100)  # a tenth of the steps at most
    assert [short.share(k) for k in (0, 1)] == pytest.approx([1 / 3, 2 / 3])
    assert Schedule(steps=1).share(0) == 1.0


def test_the_rate_of_every_step_is_the_schedules(monkeypatch):
    model = fresh()
    found = build_optimizers(model, SCHEDULE)
    rates = []
    monkeypatch.setattr("tstar.nn.small_training.build_optimizers", lambda *_: found)
    train(
        model,
        loss_on(model),
        SCHEDULE,
        None,
        "same",
        after_step=lambda: rates.append([group["lr"] for o in found for group in o.param_groups]),
    )
    assert rates == [[3e-2 * SCHEDULE.share(k)] * 2 for k in range(STEPS)]


def test_muon_gets_the_matrices_inside_layers_and_adam_the_rest():
    model = fresh()
    muon, adam = build_optimizers(model, Schedule(steps=1, weight_decay=0.3))
    names = {id(p): name for name, p in model.named_parameters()}
    held = [{names[id(p)] for group in o.param_groups for p in group["params"]} for o in (muon, adam)]
    assert type(muon).__name__ == "Muon"
    assert held[0] == {"inner.weight", "attention.in_proj_weight", "attention.out_proj.weight"}
    assert held[1] == set(names.values()) - held[0]
    assert {"words.weight", "projection", "positions", "scale", "conv.weight"} <= held[1]
    assert [o.param_groups[0]["weight_decay"] for o in (muon, adam)] == [0.3, 0.0]


def test_the_real_models_split_as_they_should(miniature_parts, miniature_language):
    import open_clip

    vision = open_clip.create_model(f"local-dir:{miniature_parts / 'vision'}")
    for model, outside in (
        (
            vision,
            (
                "text.token_embedding.weight",
                "text.positional_embedding",
                "text.text_projection",
                "visual.proj",
                "visual.conv1.weight",
            ),
        ),
        (miniature_language.model, ("model.embed_tokens.weight",)),
    ):
        muon, adam = build_optimizers(model, Schedule(steps=1))
        names = {id(p): name for name, p in model.named_parameters()}
        inner = {names[id(p)] for p in muon.param_groups[0]["params"]}
        rest = {names[id(p)] for p in adam.param_groups[0]["params"]}
        assert inner | rest == set(names.values())
        assert set(outside) <= rest
        assert all(("resblocks" in name or ".layers." in name) for name in inner)
        per_layer = [
            name for name, p in model.named_parameters() if p.ndim == 2 and (".layers." in name or "resblocks" in name)
        ]
        assert inner == set(per_layer)


def test_what_is_done_after_a_step_holds_when_the_next_begins():
    model, seen = fresh(), []

    def clamp():
        with torch.no_grad():
            model.scale.clamp_(max=0.5)

    plain = loss_on(model)

    def watched(step):
        seen.append(model.scale.item())
        return plain(step)

    train(model, watched, SCHEDULE, None, "same", after_step=clamp)
    assert seen[0] == 1.0
    assert max(seen[1:]) <= 0.5
