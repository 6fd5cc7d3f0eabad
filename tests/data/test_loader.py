import itertools

import numpy as np
import pytest
import torch

from vgen_fast.data import transforms
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


def test_first_columns_are_drawn_for_each_position(tmp_path):
    """TGANv2: 192x256, of which 192 columns are shown, from column 4 to 60; here 8 of 20, from 2 to 9."""
    writer = Writer(tmp_path / "a.vgc", (8, 20), {})
    frames = np.broadcast_to(np.arange(20, dtype=np.uint8)[:, None], (4, 8, 20, 3))
    writer.add("a", [(Clip("a"), frames)])
    writer.finish({}, {})
    clips = CachedClips(Cache(tmp_path / "a.vgc"), Window(4, left=(2, 9), width=8), seed=0)
    video, _ = clips(torch.arange(400), (4, 8, 8))
    first = video[:, 0, 0, 0, 0]
    assert (video == (first[:, None] + torch.arange(8))[:, None, None, None]).all()
    assert sorted(set(first.tolist())) == list(range(2, 10))
    assert (clips(torch.tensor([123]), (4, 8, 8))[0] == video[123]).all()
    with pytest.raises(BadCache, match="8 of 20 columns cannot start at"):
        CachedClips(clips.cache, Window(4, left=(2, 13), width=8), seed=0)


def test_the_levels_of_tganv2_by_hand(cache):
    clips = CachedClips(cache, Window(16), seed=0)
    positions = torch.arange(64)
    phases = clips.phases(positions, 4)
    assert phases.shape == (64, 3)
    assert {tuple(row) for row in phases.tolist()} == set(itertools.product((0, 1), repeat=3))
    assert (clips.phases(positions[5:6], 4) == phases[5]).all()
    frames = torch.arange(16, dtype=torch.uint8)[None, None, :, None, None]
    video = torch.randint(256, (2, 3, 1, 8, 8)).to(torch.uint8) // 16 * 16 + frames
    levels = transforms.nested(video, torch.tensor([[1, 0, 1], [0, 0, 0]]))
    assert [tuple(level.shape[2:]) for level in levels] == [(16, 1, 1), (8, 2, 2), (4, 4, 4), (2, 8, 8)]
    times = [[frame % 16 for frame in level[0, 0, :, 0, 0].tolist()] for level in levels[-1:]]
    assert times == [[5, 13]]  # odd ones; of them the even; of them the odd: 1 + 0 + 4
    assert (levels[3][1] == video[1, :, ::8]).all()
    torch.testing.assert_close(levels[1][0, 0, 3, 1, 0], video[0, 0, 7, 4:, :4].float().mean())
