"""Pooling against loops over places, and against each other where they must agree."""

import math

import pytest
import torch

from tstar.compressors import build_compressor

D_VISION, D_LANGUAGE = 6, 5


def build(name, grid, **options):
    torch.manual_seed(0)
    return build_compressor(name, d_vision=D_VISION, d_language=D_LANGUAGE, grid=grid, **options)


def clips(grid, *frame_counts):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(sum(frame_counts), grid[0] * grid[1], D_VISION, generator=generator), list(frame_counts)


def places(compressor, x, grid):
    return compressor.projector(x).unflatten(1, grid)  # [M, h, w, H]


def test_bilinear_halving_of_an_even_grid_is_average_pooling():
    x, counts = clips((6, 10), 3, 1)
    pooled, resized = build("avg_pool", (6, 10))(x, counts), build("bilinear", (6, 10))(x, counts)
    torch.testing.assert_close(resized, pooled)


@pytest.mark.parametrize(("options", "changed"), [({"align_corners": True}, True), ({"antialias": True}, True)])
def test_its_switches_are_other_filters(options, changed):
    x, counts = clips((6, 10), 2)
    plain, other = build("bilinear", (6, 10))(x, counts)[0], build("bilinear", (6, 10), **options)(x, counts)[0]
    assert (not torch.allclose(plain, other)) == changed


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(("grid", "size"), [((5, 7), None), ((4, 6), (3, 4)), ((2, 3), (5, 1))])
def test_bilinear_is_the_weighted_mean_of_four_places(grid, size, align_corners):
    compressor = build("bilinear", grid, size=size, align_corners=align_corners)
    x, counts = clips(grid, 2)
    source = places(compressor, x, grid)
    rows, columns = size or (math.ceil(grid[0] / 2), math.ceil(grid[1] / 2))

    def where(i, side, target):
        if align_corners:
            return i * (side - 1) / (target - 1) if target > 1 else 0.0
        return min(max((i + 0.5) * side / target - 0.5, 0.0), side - 1)

    expected = []
    for m in range(2):
        for r in range(rows):
            for c in range(columns):
                y, x_ = where(r, grid[0], rows), where(c, grid[1], columns)
                top, left = int(y), int(x_)
                total = 0
                for row, weight_y in ((top, 1 - (y - top)), (min(top + 1, grid[0] - 1), y - top)):
                    for column, weight_x in ((left, 1 - (x_ - left)), (min(left + 1, grid[1] - 1), x_ - left)):
                        total = total + weight_y * weight_x * source[m, row, column]
                expected.append(total)
    torch.testing.assert_close(compressor(x, counts)[0], torch.stack(expected))


@pytest.mark.parametrize(("frames", "kernel"), [(5, (2, 2, 3)), (4, (2, 4, 6)), (3, (8, 1, 1)), (1, (2, 3, 3))])
def test_blocks_of_time_and_grid_are_averaged_over_the_frames_there_are(frames, kernel):
    compressor = build("pool3d", (4, 6), kernel=kernel)
    x, counts = clips((4, 6), frames)
    volume = places(compressor, x, (4, 6))
    expected = [
        volume[t : t + kernel[0], r : r + kernel[1], c : c + kernel[2]].mean((0, 1, 2))
        for t in range(0, frames, kernel[0])
        for r in range(0, 4 - kernel[1] + 1, kernel[1])
        for c in range(0, 6 - kernel[2] + 1, kernel[2])
    ]
    torch.testing.assert_close(compressor(x, counts)[0], torch.stack(expected))


def test_time_and_space_apart_give_places_first_then_frames():
    compressor = build("pool3d", (4, 6), mode="st_mean")
    x, counts = clips((4, 6), 3, 0, 2)
    first, none, last = compressor(x, counts)
    projected = compressor.projector(x)
    torch.testing.assert_close(first, torch.cat([projected[:3].mean(0), projected[:3].mean(1)]))
    torch.testing.assert_close(last, torch.cat([projected[3:].mean(0), projected[3:].mean(1)]))
    assert none.shape == (0, D_LANGUAGE)


@torch.no_grad()
def test_time_and_space_apart_in_segments_too():
    whole, split = (build("pool3d", (4, 6), mode="st_mean", segment_frames=size) for size in (None, 3))
    x, counts = clips((4, 6), 11, 0, 1)
    torch.testing.assert_close(split(x, counts), whole(x, counts))
    with torch.autocast("cpu", torch.bfloat16):
        assert split(x, counts)[0].dtype == whole(x, counts)[0].dtype


def test_the_counts_of_video_chatgpt():
    with torch.device("meta"):
        assert build("pool3d", (16, 16), mode="st_mean").num_tokens(100) == 356
