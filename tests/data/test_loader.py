import itertools

import numpy as np
import pytest
import torch

from vgen_fast.data.cache import BadCache, Cache, Clip, Writer
from vgen_fast.data.loader import CachedClips, Window


@pytest.fixture(scope="module", params=["raw", "jpeg"])
def cache(request, tmp_path_factory):
    """12 clips of 20 to 31 frames; every pixel of frame t of clip n is (t, n, 0) and the last column brighter."""
    folder = tmp_path_factory.mktemp("cache") / "a.vgc"
    writer = Writer(folder, (8, 8), {}, request.param)
    for n in range(12):
        frames = np.zeros((20 + n, 8, 8, 3), np.uint8)
        frames[..., 0] = 8 * np.arange(20 + n)[:, None, None]
        frames[..., 1] = 16 * n
        frames[:, :, 4:, 2] = 200
        writer.add(str(n), [(Clip(str(n), 25.0, n % 3, "train" if n % 2 else "test"), frames)])
    writer.finish({"class": ("a", "b", "c")}, {})
    return Cache(folder)


def shown(clips, positions):
    """(clip, times, mirrored) of each position."""
    video, labels = clips(torch.as_tensor(positions), (clips.window.frames, 8, 8))
    found = []
    for one, label in zip(video.numpy(), labels[:, 0].tolist(), strict=True):
        times, clip = np.round(one[0, :, 0, 0] / 8).astype(int), round(one[1].mean() / 16)
        assert label == clip % 3
        found.append((clip, times.tolist(), bool(one[2, 0, 0, 0] > 100)))
    return found


def test_a_time_round_shows_every_clip_once_in_an_order_of_its_own(cache):
    clips = CachedClips(cache, Window(16), seed=3)
    orders = [[clip for clip, _, _ in shown(clips, range(12 * n, 12 * n + 12))] for n in range(3)]
    assert all(sorted(order) == list(range(12)) for order in orders)
    assert len(set(map(tuple, orders))) == 3


def test_an_item_is_a_function_of_seed_and_position(cache):
    clips = CachedClips(cache, Window(16, (1, 2), mirror=True), seed=3)
    whole = shown(clips, range(40))
    again = CachedClips(Cache(cache.folder), Window(16, (1, 2), mirror=True), seed=3)
    assert [shown(again, [i])[0] for i in reversed(range(40))][::-1] == whole
    assert shown(CachedClips(cache, Window(16, (1, 2), mirror=True), seed=4), range(40)) != whole


def test_windows_start_everywhere_and_strides_and_mirrors_occur(cache):
    clips = CachedClips(cache, Window(8, (1, 3), mirror=True), seed=0)
    seen = shown(clips, range(2000))
    starts, strides, mirrored = set(), set(), 0
    for clip, times, turned in seen:
        apart = {b - a for a, b in itertools.pairwise(times)}
        assert len(apart) == 1
        assert 0 <= times[0] <= times[-1] < 20 + clip
        strides |= apart
        mirrored += turned
        starts |= {times[0]} if clip == 0 and apart == {2} else set()
    assert strides == {1, 2, 3}
    assert starts == set(range(20 - 7 * 2))
    assert 900 < mirrored < 1100


def test_short_clips_are_refused_or_their_last_frame_repeated(cache):
    with pytest.raises(BadCache, match="has clips of 20 frames, 25 are needed"):
        CachedClips(cache, Window(25), seed=0)
    clips = CachedClips(cache, Window(25, short="repeat"), seed=0)
    times = {clip: times for clip, times, _ in shown(clips, range(12))}
    assert times[0] == [*range(20), *[19] * 5]
    assert times[11] in [list(range(first, first + 25)) for first in range(7)]


def test_a_split_holds_its_clips_alone(cache):
    clips = CachedClips(cache, Window(16), seed=0, split="train")
    assert {clip for clip, _, _ in shown(clips, range(12))} == set(range(1, 12, 2))
    with pytest.raises(BadCache, match="no clips of the split 'val'"):
        CachedClips(cache, Window(16), seed=0, split="val")


def test_smaller_levels_are_means(cache):
    clips = CachedClips(cache, Window(16), seed=0)
    whole, _ = clips(torch.arange(4), (16, 8, 8))
    small, _ = clips(torch.arange(4), (4, 2, 2))
    wanted = torch.nn.functional.avg_pool3d(whole.float(), 4).round().to(torch.uint8)
    assert torch.equal(small, wanted)
    assert small.is_contiguous()
