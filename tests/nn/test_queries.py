"""Query tokens: against loops over single tokens."""

import pytest
import torch

from tstar.nn.queries import count_kept_frames, insert_queries, kept_frames, pool_queries, take_queries


@pytest.mark.parametrize("interval", [1, 2, 3, 12])
def test_queries_follow_each_run_of_patches(interval):
    patches, query = torch.randn(4, 12, 5), torch.randn(5)
    frames = []
    for frame in patches:
        row = []
        for i, patch in enumerate(frame, start=1):
            row.append(patch)
            if i % interval == 0:
                row.append(query)
        frames.append(torch.stack(row))
    assert torch.equal(insert_queries(patches, query, interval), torch.stack(frames))


@pytest.mark.parametrize(("interval", "stride"), [(1, 1), (3, 2), (4, 3), (12, 9)])
def test_pooled_queries_are_means_over_a_run_in_the_frames_of_its_group(interval, stride):
    counts = [5, 0, 1, 4]
    patches = torch.randn(10, 12, 3)
    expected, first = [], 0
    for count in counts:
        for frame in range(count):
            start = first + frame // stride * stride
            group = patches[start : min(start + stride, first + count)]
            expected.append([group[:, i : i + interval].mean((0, 1)) for i in range(0, 12, interval)])
        first += count
    expected = torch.stack([torch.stack(row) for row in expected])
    found = pool_queries(patches, interval, counts, stride)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(take_queries(insert_queries(patches, found, interval), interval), expected)


@pytest.mark.parametrize("interval", [1, 4])
def test_queries_are_found_again(interval):
    tokens = torch.randn(2, 5 * (interval + 1), 3)
    expected = torch.stack([tokens[:, i] for i in range(tokens.shape[1]) if i % (interval + 1) == interval], 1)
    assert torch.equal(take_queries(tokens, interval), expected)
    patches = torch.randn(2, 6, 5 * interval, 3)
    slots = take_queries(insert_queries(patches, torch.full((3,), 7.0), interval), interval)
    assert slots.shape == (2, 6, 5, 3)
    assert (slots == 7.0).all()


def test_lengths_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="interval 5 does not divide 12 patches"):
        insert_queries(torch.zeros(12, 3), torch.zeros(3), 5)
    with pytest.raises(ValueError, match="13 tokens are no multiple of interval"):
        take_queries(torch.zeros(13, 3), 5)


@pytest.mark.parametrize("num_frames", [*range(9), 128, 256, 384])
@pytest.mark.parametrize("stride", [1, 2, 3, 7])
def test_kept_frames_by_walking_through_the_groups(num_frames, stride):
    groups = [list(range(num_frames))[start : start + stride] for start in range(0, num_frames, stride)]
    assert kept_frames(num_frames, stride, "first") == [group[0] for group in groups]
    assert kept_frames(num_frames, stride, "last") == [group[-1] for group in groups]
    assert count_kept_frames(num_frames, stride) == len(groups)
