"""Which frames are looked at: the published rule, checked by a loop in exact fractions."""

from fractions import Fraction

import numpy as np
import pytest

from tstar.data.frame_sampling import FrameSampling, nearest_frames, segment_indices
from tstar.errors import ConfigError, DataError


def half_even(x: Fraction) -> int:
    below = x.numerator // x.denominator
    rest = x - below
    if rest == Fraction(1, 2):
        return below + below % 2
    return below + (rest > Fraction(1, 2))


def by_hand(frames: int, rate: Fraction, fps: int, cap: int) -> list[int]:
    """min(round(t * f), n - 1) for t = j * d / M, in fractions, so without any rounding error."""
    duration = frames / rate
    wanted = -((-duration * fps) // 1)
    count = min(int(wanted), cap)
    return [min(half_even(j * duration / count * rate), frames - 1) for j in range(count)]


@pytest.mark.parametrize("rate", [Fraction(8), Fraction(24), Fraction(25), Fraction(30), Fraction(30000, 1001)])
@pytest.mark.parametrize("fps", [1, 2, 10])
@pytest.mark.parametrize("frames", [1, 2, 3, 7, 50, 127, 128, 129, 400, 1000])
def test_constant_rates_give_the_frames_of_the_rule(rate, fps, frames):
    starts = np.array([float(k / rate) for k in range(frames)])
    sampling = FrameSampling(fps=fps, max_frames=16)
    times = sampling.times(float(frames / rate))
    assert nearest_frames(times, starts).tolist() == by_hand(frames, rate, fps, 16)


def test_ties_go_to_the_even_frame():
    starts = np.arange(6) / 10
    assert nearest_frames(np.array([0.05, 0.15, 0.25, 0.35, 0.45]), starts).tolist() == [0, 2, 2, 4, 4]
    assert nearest_frames(np.array([0.0499, 0.1501, 0.2501]), starts).tolist() == [0, 2, 3]


@pytest.mark.parametrize(
    ("duration", "count"),
    [(0.0, 1), (0.05, 1), (0.1, 1), (0.11, 2), (3.0, 30), (12.7, 127), (12.8, 128), (12.81, 128), (3600.0, 128)],
)
def test_the_rate_holds_up_to_twelve_point_eight_seconds(duration, count):
    sampling = FrameSampling()
    assert sampling.count(duration) == count
    times = sampling.times(duration)
    assert len(times) == count
    assert times[0] == 0
    np.testing.assert_allclose(np.diff(times), duration / count)
    assert (times < max(duration, 1e-9)).all()


@pytest.mark.parametrize("noise", [-4e-10, 4e-10])
def test_a_duration_that_is_off_by_rounding_gives_no_extra_frame(noise):
    assert FrameSampling().count(3 + noise) == 30


def test_short_clips_repeat_no_frame():
    starts = np.arange(5) / 25
    chosen = nearest_frames(FrameSampling(fps=10).times(0.2), starts)
    assert chosen.tolist() == [0, 2]


def test_variable_rates_give_the_frame_nearest_in_time():
    rng = np.random.default_rng(0)
    starts = np.cumsum(rng.uniform(0.01, 0.4, 60)) + 7  # the first frame need not be at 0
    times = rng.uniform(0, starts[-1] - starts[0] + 1, 500)
    nearest = [int(np.argmin([abs(s - starts[0] - t) for s in starts])) for t in times]
    assert nearest_frames(times, starts).tolist() == nearest


@pytest.mark.parametrize("fps", [0, -1, float("nan"), float("inf")])
def test_an_impossible_rate_is_refused(fps):
    with pytest.raises(ConfigError, match="fps must be a number above 0"):
        FrameSampling(fps=fps)
    with pytest.raises(ConfigError, match="max_frames must be at least 1, got 0"):
        FrameSampling(max_frames=0)


@pytest.mark.parametrize("count", [1, 2, 8, 16, 64])
@pytest.mark.parametrize("first", [0, 1])
def test_segment_middles_equal_the_published_formula_written_as_a_loop(first, count):
    rng = np.random.default_rng(count + first)
    for _ in range(200):
        last, fps = int(rng.integers(first, 900)), float(rng.choice([3, 12.5, 24, 25, 29.97, 30]))
        start = float(np.round(rng.uniform(0, last / fps), 1))
        window = (start, start + float(rng.uniform(0, 40)))
        begin, end = max(first, round(start * fps)), min(round(window[1] * fps), last)
        size = (end - begin) / count
        expected = [int(begin + size / 2 + round(size * k)) for k in range(count)]
        if min(expected) < first or max(expected) > last:
            with pytest.raises(DataError, match=r"no window from .* s to .* s in a video with frames"):
                segment_indices(first, last, fps, window, count)
        else:
            assert segment_indices(first, last, fps, window, count).tolist() == expected


def test_segments_round_halves_to_even_and_reach_neither_past_the_end_nor_the_window():
    # 5 frames a segment of 2.5: offsets 0, 2.5, 5, 7.5 become 0, 2, 5, 8
    assert segment_indices(0, 10, 1.0, None, 4).tolist() == [1, 3, 6, 9]
    # 0.5 s and 2.5 s at one frame a second are frames 0 and 2
    assert segment_indices(0, 99, 1.0, (0.5, 2.5), 2).tolist() == [0, 1]
    assert segment_indices(1, 300, 3.0, (0.0, 100000.0), 3).tolist() == [50, 150, 249]
    assert (
        segment_indices(0, 300, 3.0, (-100000.0, 100000.0), 3).tolist()
        == segment_indices(0, 300, 3.0, None, 3).tolist()
    )
    assert segment_indices(0, 2, 25.0, None, 8).tolist() == [0, 0, 0, 1, 1, 1, 2, 2]  # fewer frames than segments
    assert segment_indices(0, 299, 30.0, (10.0, 12.0), 2).tolist() == [299, 299]  # begins a frame too late


def test_segments_of_nothing_are_refused():
    with pytest.raises(DataError, match="no window from 20 s to 30 s in a video with frames 0 to 99 at 10 a second"):
        segment_indices(0, 99, 10.0, (20.0, 30.0), 8)
    with pytest.raises(DataError, match="no window in a video with frames 1 to 0"):
        segment_indices(1, 0, 3.0, None, 4)
    for fps, count in ((0.0, 4), (float("nan"), 4), (3.0, 0)):
        with pytest.raises(ConfigError, match="segments need a count of 1 or more and an fps above 0"):
            segment_indices(0, 9, fps, None, count)
