"""Silences and voices: where recordings are cut, and where never."""

import csv
import dataclasses
from pathlib import Path

import numpy as np
import pytest

from modules.audio.io import read
from modules.audio.slicing import (
    Cut,
    SliceOptions,
    blend_peak,
    check,
    find_cuts,
    frame_rms,
    limit_cuts,
    silence_cuts,
    voice_cuts,
)
from modules.errors import UserError

RATE = 16000
PLAIN = SliceOptions(max_seconds=0, min_seconds=0)


def sound(*parts: tuple[float, float], rate: int = RATE) -> np.ndarray:
    """Noise in parts of (seconds, level in dB), float32 [S]."""
    noise = np.random.default_rng(0)
    pieces = [10 ** (level / 20) * noise.standard_normal(round(seconds * rate)) for seconds, level in parts]
    return np.concatenate(pieces).astype(np.float32)


def seconds(cuts: list[Cut], rate: int = RATE) -> list[tuple[float, float]]:
    return [(round(cut.start / rate, 2), round(cut.end / rate, 2)) for cut in cuts]


def plain_loop_cuts(wav: np.ndarray, rate: int, o: SliceOptions) -> list[tuple[int, int]]:
    """The published method once more, a frame at a time, in float64."""
    hop = round(rate * o.hop_size / 1000)
    padded = np.concatenate([np.zeros(2 * hop), wav.astype(np.float64), np.zeros(2 * hop)])
    rms = []
    for first in range(0, len(padded) - 4 * hop + 1, hop):
        rms.append(np.sqrt(np.mean(padded[first : first + 4 * hop] ** 2)))
    limit = 10 ** (o.threshold / 20)
    interval, length, kept = o.min_interval // o.hop_size, o.min_length // o.hop_size, o.max_sil_kept // o.hop_size

    def quietest(frames: range) -> int:
        return min(frames, key=lambda frame: rms[frame])

    cuts, piece, silence = [], 0, None
    for frame, value in enumerate(rms):
        if value < limit:
            silence = frame if silence is None else silence
            continue
        if silence is None:
            continue
        lasts = frame - silence
        leave = quietest(range(silence, min(frame, silence + kept + 1)))
        enter = quietest(range(max(silence, frame - kept), frame))
        if silence == 0:
            piece = enter if lasts > kept else 0
        elif lasts >= interval and frame - piece >= length:
            cuts.append((piece * hop, leave * hop))
            piece = enter
        silence = None
    if silence is not None and len(rms) - silence >= interval:
        cuts.append((piece * hop, quietest(range(silence, min(len(rms), silence + kept + 1))) * hop))
    else:
        cuts.append((piece * hop, len(wav)))
    return cuts


def assert_within_a_hop(wav: np.ndarray, rate: int, options: SliceOptions) -> None:
    ours, reference = silence_cuts(wav, rate, options), plain_loop_cuts(wav, rate, options)
    assert len(ours) == len(reference)
    hop = rate * options.hop_size / 1000
    for cut, (start, end) in zip(ours, reference):
        assert abs(cut.start - start) <= hop and abs(cut.end - end) <= hop


def test_frames_are_centred_and_padded_with_silence() -> None:
    wav = sound((0.1, -20))[:1003]
    padded = np.pad(wav.astype(np.float64), (20, 40))
    expected = [np.sqrt(np.mean(padded[10 * t : 10 * t + 40] ** 2)) for t in range(101)]
    np.testing.assert_allclose(frame_rms(wav, 10), expected, rtol=1e-12)


@pytest.mark.parametrize("seed", range(6))
def test_the_slicer_equals_a_plain_loop(seed: int) -> None:
    random = np.random.default_rng(seed)
    parts = [
        part
        for _ in range(8)
        for part in (
            (float(random.uniform(0.1, 4)), float(random.uniform(-30, -6))),
            (float(random.uniform(0.05, 1.6)), float(random.uniform(-80, -36))),
        )
    ]
    wav = sound(*parts[seed % 2 :], rate=8000)
    options = dataclasses.replace(PLAIN, min_length=int(random.integers(300, 5000)), hop_size=10 + seed % 3 * 5)
    options = dataclasses.replace(options, min_interval=10 * options.hop_size, max_sil_kept=20 * options.hop_size)
    assert_within_a_hop(wav, 8000, options)


def test_silence_is_cut_and_half_a_second_of_it_kept_at_each_side() -> None:
    wav = sound((2.0, -100), (5, -12), (2.0, -100), (5, -12), (2.0, -100))
    first, second = seconds(silence_cuts(wav, RATE, PLAIN))
    assert 1.48 <= first[0] < 2 and 7 < first[1] <= 7.52
    assert 8.48 <= second[0] < 9 and 14 < second[1] <= 14.52


def test_a_short_silence_or_a_short_piece_is_not_cut() -> None:
    assert len(silence_cuts(sound((5, -12), (0.25, -100), (5, -12)), RATE, PLAIN)) == 1
    assert len(silence_cuts(sound((5, -12), (0.4, -100), (5, -12)), RATE, PLAIN)) == 2
    assert len(silence_cuts(sound((3, -12), (0.4, -100), (5, -12)), RATE, PLAIN)) == 1


def test_the_cut_lies_at_the_quietest_place() -> None:
    wav = sound((5, -12), (0.2, -50), (0.1, -90), (0.1, -50), (5, -12))
    first, second = seconds(silence_cuts(wav, RATE, PLAIN))
    assert first[1] == second[0] == pytest.approx(5.25, abs=0.04)


@pytest.mark.parametrize("method", ["silence", "voice"])
@pytest.mark.parametrize("level", [-200.0, -95.0])
def test_silence_has_no_pieces(method: str, level: float) -> None:
    options = SliceOptions(method=method)
    assert find_cuts(sound((3, level)), RATE, options) == []
    assert find_cuts(np.zeros(1, dtype=np.float32), RATE, options) == []
    assert find_cuts(np.zeros(0, dtype=np.float32), RATE, options) == []


def test_steady_noise_below_the_threshold_is_silence_but_quiet_speech_is_not() -> None:
    assert silence_cuts(sound((3, -50)), RATE, PLAIN) == []
    quiet = sound((1, -85), (5, -60), (1, -85), (5, -60), (1, -85))
    pieces = seconds(silence_cuts(quiet, RATE, PLAIN))
    assert len(pieces) == 2 and pieces[0][0] > 0.4 and pieces[1][1] < 12.6


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        ({"min_length": 200}, "min_length"),
        ({"min_interval": 5}, "min_interval"),
        ({"hop_size": 400, "max_sil_kept": 350, "min_interval": 500}, "max_sil_kept"),
        ({"max_seconds": 2.0, "min_seconds": 3.0}, "max_seconds"),
        ({"max_seconds": 0.01, "min_seconds": 0.0}, "max_seconds"),
    ],
)
def test_lengths_that_do_not_fit_are_refused_by_name(wrong: dict[str, float], name: str) -> None:
    with pytest.raises(UserError) as error:
        check(SliceOptions(**wrong))
    assert error.value.code == "slice_option_order" and error.value.fields["field"] == name


def test_the_seven_numbers_keep_their_names_and_defaults() -> None:
    o = SliceOptions()
    known = (o.threshold, o.min_length, o.min_interval, o.hop_size, o.max_sil_kept, o.max, o.alpha)
    assert known == (-34, 4000, 300, 10, 500, 0.9, 0.25)


def test_the_blend_is_a_share_of_the_levelled_clip() -> None:
    clip = np.array([0.1, -0.4, 0.2], dtype=np.float32)
    expected = clip / 0.4 * (0.9 * 0.25) + (1 - 0.25) * clip
    np.testing.assert_allclose(blend_peak(clip, 0.9, 0.25), expected, rtol=1e-6)
    assert not blend_peak(np.zeros(5, dtype=np.float32), 0.9, 0.25).any()
    assert np.abs(blend_peak(clip * 10, 0.9, 0.25)).max() <= 1
    assert blend_peak(clip, 0.9, 0.25).dtype == np.float32


def limited(wav: np.ndarray, **options: float) -> list[Cut]:
    return limit_cuts(wav, RATE, [Cut(0, len(wav))], SliceOptions(**options))


def assert_covers(pieces: list[Cut], wav: np.ndarray, longest_seconds: float) -> None:
    assert pieces[0].start == 0 and pieces[-1].end == len(wav)
    assert all(a.end == b.start for a, b in zip(pieces, pieces[1:]))
    assert max(p.end - p.start for p in pieces) <= longest_seconds * RATE


@pytest.mark.parametrize("level", [-12.0, -40.0])
def test_sound_without_pauses_is_split_evenly_and_completely(level: float) -> None:
    wav = sound((30.003, level))
    pieces = limited(wav)
    assert_covers(pieces, wav, 12)
    assert len(pieces) == 3 and min(p.end - p.start for p in pieces) > 8 * RATE


def test_without_a_limit_nothing_is_split() -> None:
    assert len(limited(sound((30, -12)), max_seconds=0)) == 1


@pytest.mark.parametrize("place", [1.5, 3.0, 6.0, 11.0])
@pytest.mark.parametrize("floor", [-100.0, -45.0])
def test_a_split_falls_into_the_only_pause(place: float, floor: float) -> None:
    wav = sound((place, -12), (0.1, floor), (12.5 - place, -12))
    pieces = limited(wav)
    assert_covers(pieces, wav, 12)
    assert [place < p.end / RATE < place + 0.1 for p in pieces[:-1]] == [True]


def test_two_far_pauses_are_better_than_one_word_cut() -> None:
    wav = sound((5, -12), (0.1, -60), (10, -12), (0.1, -60), (5, -12))
    assert seconds(limited(wav)) == [
        (0.0, pytest.approx(5.05, abs=0.05)),
        (pytest.approx(5.05, abs=0.05), pytest.approx(15.15, abs=0.05)),
        (pytest.approx(15.15, abs=0.05), 20.2),
    ]


def test_a_split_prefers_the_longer_pause() -> None:
    wav = sound((6.5, -12), (0.1, -60), (1.2, -12), (0.35, -60), (6, -12))
    assert 7.8 < seconds(limited(wav))[0][1] < 8.15


def test_long_silence_at_a_split_is_left_out() -> None:
    wav = sound((8, -12), (2.0, -100), (8, -12))
    first, second = seconds(limited(wav))
    assert first == (0, pytest.approx(8.5, abs=0.03)) and second[0] == pytest.approx(9.5, abs=0.03)


def test_short_pieces_join_the_closer_neighbour_if_there_is_room() -> None:
    wav = sound((20, -12))

    def join(*times: tuple[float, float], **options: float) -> list[tuple[float, float]]:
        cuts = [Cut(round(a * RATE), round(b * RATE)) for a, b in times]
        return seconds(limit_cuts(wav, RATE, cuts, SliceOptions(**options)))

    assert join((0, 4), (4.3, 4.8), (5.2, 9)) == [(0, 4.8), (5.2, 9)]
    assert join((0, 4), (4.4, 4.8), (5.0, 9)) == [(0, 4), (4.4, 9)]
    assert join((0, 4), (4.6, 5.1), (5.7, 9)) == [(0, 4), (4.6, 5.1), (5.7, 9)]
    assert join((0, 11.8), (11.9, 12.4), (13.4, 19)) == [(0, 11.8), (11.9, 12.4), (13.4, 19)]
    assert join((0, 0.5), (0.6, 1.0), (1.1, 1.5), (1.6, 4)) == [(0, 1.0), (1.1, 4)]
    assert join((0, 4), (4.3, 4.8), (5.2, 9), min_seconds=0) == [(0, 4), (4.3, 4.8), (5.2, 9)]


# --- real recordings


def long_recording(speech_dir: Path | None) -> tuple[np.ndarray, list[float]]:
    """The recording and the middles of the 400 ms between its utterances, in seconds."""
    if speech_dir is None:
        pytest.skip("needs --speech")
    with open(speech_dir / "long/lj001_0001-0014.segments.tsv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    middles = [(float(a["end"]) + float(b["start"])) / 2 for a, b in zip(rows, rows[1:])]
    return read(speech_dir / "long/lj001_0001-0014.flac", 32000).numpy(), middles


@pytest.mark.parametrize(
    "options", [SliceOptions(min_length=1500), SliceOptions(method="voice")], ids=["silence", "voice"]
)
def test_the_boundaries_of_a_long_recording_are_found(speech_dir: Path | None, options: SliceOptions) -> None:
    wav, boundaries = long_recording(speech_dir)
    pieces = find_cuts(wav, 32000, options)
    places = [(a.end, b.start) for a, b in zip(pieces, pieces[1:])]
    found = [any(abs(s / 32000 - b) <= 0.3 for place in places for s in place) for b in boundaries]
    assert sum(found) >= 12
    assert max(p.end - p.start for p in pieces) <= 12 * 32000
    levels = 10 * np.log10(np.square(wav[: len(wav) // 320 * 320]).reshape(-1, 320).mean(axis=1) + 1e-10)
    loud = np.flatnonzero(levels > np.percentile(levels, 90) - 15)
    for place in places:
        after = np.searchsorted(loud, sum(place) // 640)
        assert loud[after] - loud[after - 1] > 9, f"no pause of 100 ms around {sum(place) / 64000:.2f} s"


def test_real_recordings_are_cut_like_by_the_plain_loop(speech_dir: Path | None) -> None:
    wav, _ = long_recording(speech_dir)
    assert_within_a_hop(wav, 32000, SliceOptions())
    for path in sorted((speech_dir / "clips").glob("*.flac"))[:20]:
        assert_within_a_hop(read(path, 32000).numpy(), 32000, SliceOptions())


def test_long_recordings_are_judged_in_blocks_without_a_seam(
    speech_dir: Path | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    wav, _ = long_recording(speech_dir)
    whole = voice_cuts(wav, 32000, SliceOptions())
    monkeypatch.setattr("modules.audio.slicing._VAD_BLOCK_SECONDS", 30)
    blocks = voice_cuts(wav, 32000, SliceOptions())
    assert len(blocks) == pytest.approx(len(whole), abs=1)
    starts = np.array([cut.start for cut in whole])
    assert sum(np.abs(starts - cut.start).min() < 0.15 * 32000 for cut in blocks) >= len(blocks) - 1
