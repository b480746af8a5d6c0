"""data.max_frames: of longer clips frames are left out as if no more had been sampled."""

import numpy as np
import pytest
import torch

from tstar.data.batch import Sample
from tstar.data.datamodule import ClipDataModule
from tstar.data.sample_source import SampleSource, evenly
from tstar.data.shard_set import ShardSet
from tstar.errors import ConfigError


@pytest.mark.parametrize(
    ("count", "most"), [(128, 30), (128, 128), (5, 2), (7, 3), (1, 1), (0, 4), (42, 41), (9, None)]
)
def test_kept_frames_are_the_stored_ones_nearest_to_the_wanted_times(count, most):
    kept = evenly(count, most)
    assert len(kept) == len(set(kept)) == min(count, most or count)
    if kept and len(kept) < count:
        stored, wanted = np.arange(count) / count, np.arange(len(kept)) / len(kept)  # in shares of the clip
        np.testing.assert_allclose(abs(stored[kept] - wanted), abs(stored[:, None] - wanted).min(0), atol=1e-12)


def remember(raw, features=None, room=None):
    """A sample whose ids are its frames' bytes, hashed, and the rows of its features."""
    ids = [hash(frame) for frame in raw.frames] if features is None else features[:, 0].tolist()
    return Sample(raw.meta["id"], torch.zeros(len(ids), 3, 2, 2), torch.tensor(ids), torch.ones(1))


@pytest.mark.parametrize("most", [1, 3, 100])
def test_samples_have_those_frames_of_theirs(tiny_world, most):
    shards = ShardSet([tiny_world / "shards" / "video_sft"])
    whole, thinned = SampleSource(shards, remember), SampleSource(shards, remember, most)
    counts = []
    for number in range(len(whole)):
        before, after = whole[number][0].input_ids, thinned[number][0].input_ids
        assert torch.equal(after, before[evenly(len(before), most)])
        counts.append(len(after))
    assert thinned.frame_counts().tolist() == counts
    assert max(counts) == min(most, whole.frame_counts().max())
    assert [len(s.frames) for s, _ in thinned.__getitems__([0, 1, 2])] == counts[:3]
    features = [torch.arange(float(n))[:, None] for n in whole.frame_counts()]
    thinned.features = lambda number: features[number]
    for number, own in enumerate(features):
        assert thinned[number][0].input_ids.tolist() == own[evenly(len(own), most), 0].tolist()


def test_none_is_no_frame_at_all(tiny_world):
    with pytest.raises(ConfigError, match=r"data\.max_frames must be at least 1, got 0"):
        ClipDataModule(remember, [str(tiny_world / "shards" / "video_sft")], max_frames=0)
