"""Clustering compressors: groups of frames are independent of how many are looked at together."""

import pytest
import torch

from tstar.compressors import build_compressor, token_clustering


@pytest.mark.parametrize("name", ["density_peaks", "kmeans", "token_merging"])
def test_groups_may_be_clustered_one_by_one(name, monkeypatch):
    torch.manual_seed(0)
    compressor = build_compressor(name, d_vision=20, d_language=28, grid=(4, 6), preset="tiny", frames_per_group=2)
    seen = []
    cluster = type(compressor.config).cluster
    monkeypatch.setattr(
        type(compressor.config), "cluster", lambda self, tokens: seen.append(len(tokens)) or cluster(self, tokens)
    )
    x = torch.randn(9 + 4, 24, 20)
    together = compressor(x, [9, 4])
    assert sorted(seen) == [1, 6]
    seen.clear()
    monkeypatch.setattr(token_clustering, "PAIRS", 2 * 48**2)
    apart = compressor(x, [9, 4])
    assert sorted(seen) == [1, 2, 2, 2]
    for some, all_of_them in zip(apart, together, strict=True):
        torch.testing.assert_close(some, all_of_them, rtol=1e-6, atol=1e-6)
