"""Noise reduction: what it takes away, what it leaves, and that pieces leave no seams."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from modules.audio import channels
from modules.audio.channels import FORMATS, read_channels, write_channels
from modules.audio.loudness import integrated_lufs
from modules.corpus import denoising
from modules.corpus.denoising import DenoiseOptions, denoise, denoise_files, quietest
from modules.corpus.outputs import mirrored, without_results
from modules.data.sources import list_audio
from modules.errors import Stopped, UserError
from modules.progress import StepProgress
from tools import denoise as command
from tools import slice as cut

METHODS = [DenoiseOptions(), DenoiseOptions(method="adaptive")]
RATE = 16000
FALL_DB = {"stationary": 6, "adaptive": 2}
"""The adaptive floor follows a steady hiss, half of which then stands out of it; on speech it does better (below)."""


def speechlike(seconds: float, noise_db: float = -40.0, rate: int = RATE, seed: int = 0) -> np.ndarray:
    """Bursts of harmonics, 0.6 s of every second, in white noise of that level -> [1, S]."""
    times = np.arange(int(seconds * rate)) / rate
    voice = sum(np.sin(2 * np.pi * 150 * n * times) / n for n in range(1, 12)) * 0.15 * ((times % 1.0) < 0.6)
    hiss = 10 ** (noise_db / 20) * np.random.default_rng(seed).standard_normal(len(times))
    return (voice + hiss).astype(np.float32)[None]


def pause_db(wav: np.ndarray, rate: int = RATE) -> float:
    """Level of the pauses, their edges left out, dB."""
    place = (np.arange(wav.shape[-1]) / rate) % 1.0
    return 10 * np.log10(np.mean(wav[..., (place > 0.7) & (place < 0.95)].astype(np.float64) ** 2) + 1e-20)


@pytest.mark.parametrize("options", METHODS, ids=lambda one: one.method)
def test_pauses_fall_and_the_voice_stays(options: DenoiseOptions) -> None:
    noisy = speechlike(4)
    clean = denoise(noisy, RATE, options)
    assert clean.shape == noisy.shape and clean.dtype == np.float32
    assert pause_db(clean) < pause_db(noisy) - FALL_DB[options.method]
    before, after = (integrated_lufs(torch.from_numpy(wav[0]), RATE) for wav in (noisy, clean))
    assert abs(before - after) < 0.5
    voice = speechlike(4, noise_db=-200)
    assert np.corrcoef(voice[0], clean[0])[0, 1] > 0.98


def test_strength_goes_from_nothing_to_much() -> None:
    noisy = speechlike(3)
    floors = [pause_db(denoise(noisy, RATE, DenoiseOptions(strength=strength))) for strength in (0.0, 0.4, 0.8, 1.0)]
    assert floors == sorted(floors, reverse=True) and floors[0] > floors[1] > floors[3]
    assert np.array_equal(denoise(noisy, RATE, DenoiseOptions(strength=0.0)), noisy)


@pytest.mark.parametrize("options", METHODS, ids=lambda one: one.method)
def test_pieces_leave_no_seams(options: DenoiseOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    noisy = speechlike(12, rate=8000)
    whole = denoise(noisy, 8000, options)
    monkeypatch.setattr(denoising, "_PIECE_SECONDS", 5.0)
    pieces = denoise(noisy, 8000, options)
    assert np.abs(whole - pieces).max() < 1e-3
    assert np.array_equal(denoise(noisy, 8000, options), pieces)


@pytest.mark.parametrize("options", METHODS, ids=lambda one: one.method)
@pytest.mark.parametrize("length", [1, 100, 2000, 3000, 16000])
def test_short_and_silent_sounds_survive(options: DenoiseOptions, length: int) -> None:
    silence = np.zeros((1, length), dtype=np.float32)
    assert np.array_equal(denoise(silence, RATE, options), silence)
    hiss = speechlike(1)[:, :length]
    clean = denoise(hiss, RATE, options)
    assert clean.shape == hiss.shape and np.isfinite(clean).all() and np.abs(clean).max() <= 1.0


@pytest.mark.parametrize("options", METHODS, ids=lambda one: one.method)
def test_digital_silence_and_odd_values_inside_a_recording(options: DenoiseOptions) -> None:
    noisy = speechlike(3)
    noisy[0, RATE : 2 * RATE] = 0.0
    noisy[0, 10] = np.nan
    clean = denoise(noisy, RATE, options)
    assert np.isfinite(clean).all()
    assert np.abs(clean[0, RATE + 2000 : 2 * RATE - 2000]).max() < 1e-4
    assert pause_db(clean[:, 2 * RATE :]) < pause_db(noisy[:, 2 * RATE :]) - FALL_DB[options.method]


def test_channels_are_cleaned_apart() -> None:
    left, right = speechlike(2), speechlike(2, noise_db=-30, seed=1)
    both = denoise(np.concatenate([left, right]), RATE)
    assert both.shape == (2, 2 * RATE)
    alone = denoise(left, RATE)
    assert np.corrcoef(both[0], alone[0])[0, 1] > 0.99999


def test_the_quietest_parts() -> None:
    wav = speechlike(4)[0]
    noise = quietest(wav, RATE)
    assert noise is not None and len(noise) >= RATE // 2
    assert 20 * np.log10(noise.std()) < -38
    assert quietest(np.zeros(RATE, dtype=np.float32), RATE) is None
    wav[: 2 * RATE] = 0
    assert np.abs(quietest(wav, RATE)).max() > 0


def test_noise_in_a_real_recording_falls(speech_dir: Path | None) -> None:
    if speech_dir is None:
        pytest.skip("needs --speech")
    noisy, rate = read_channels(speech_dir / "mix" / "kerstin_0043_pink10dB.flac")
    voice, _ = read_channels(speech_dir / "clips" / "kerstin_0043.flac")
    window = rate // 50
    count = min(noisy.shape[1], voice.shape[1]) // window

    def levels(wav: np.ndarray) -> np.ndarray:
        return np.mean(wav[0, : count * window].reshape(count, window).astype(np.float64) ** 2, axis=1)

    pauses = 10 * np.log10(levels(voice) + 1e-12) < 10 * np.log10(levels(voice).max()) - 40
    assert pauses.sum() > 5
    for options in METHODS:
        clean = denoise(noisy, rate, options)
        fall = 10 * np.log10(levels(noisy)[pauses].mean() / levels(clean)[pauses].mean())
        before, after = (integrated_lufs(torch.from_numpy(wav[0]), rate) for wav in (noisy, clean))
        print(f"{options.method}: pauses {fall:.1f} dB lower, loudness {after - before:+.2f} LU")
        assert fall >= 6 and abs(before - after) < 0.5


# ---- files


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize(("count", "rate"), [(1, 16000), (2, 44100), (2, 96000)])
def test_every_format_comes_back(tmp_path: Path, kind: str, count: int, rate: int) -> None:
    wav = np.repeat(0.3 * np.sin(np.arange(rate) * 2 * np.pi * 440 / rate), count).reshape(rate, count).T
    write_channels(tmp_path / "new" / f"a.{kind}", wav.astype(np.float32), rate)
    back, found = read_channels(tmp_path / "new" / f"a.{kind}")
    assert back.shape[0] == count and found == (rate if kind in ("wav", "flac") else min(rate, 48000))
    assert abs(back.shape[1] / found - 1.0) < 0.1
    assert back.std() == pytest.approx(wav.std(), rel=0.1)
    if kind in ("wav", "flac"):
        assert np.abs(back - wav).max() < 1 / 32768
    tone = 0.3 * np.sin(np.arange(back.shape[1]) * 2 * np.pi * 440 / found + np.linspace(0, 2 * np.pi, 72)[:, None])
    inner = slice(found // 5, found * 4 // 5)  # some builds let the sound swell in, and add a delay
    for channel in back:
        assert np.abs(channel - tone)[:, inner].max(axis=1).min() < 0.03, "more than the sound that was written"


def test_mp3_without_the_encoder_of_soundfile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channels.soundfile, "available_formats", lambda: {"WAV": ""})
    write_channels(tmp_path / "a.mp3", speechlike(1), RATE)
    back, rate = read_channels(tmp_path / "a.mp3")
    assert rate == RATE and back.shape[0] == 1 and back.shape[1] >= RATE


def test_names_are_mirrored_without_meeting(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    files = [tmp_path / "a.mp3", tmp_path / "a.wav", tmp_path / "b" / "A.wav"]
    assert [str(one) for one in mirrored(files, tmp_path, ".flac")] == ["a.flac", "a.wav.flac", "b/A.flac"]
    long = [tmp_path / ("長" * 83 + letter + ".ts") for letter in "ab"]
    names = [one.name for one in mirrored(long, tmp_path, ".flac")]
    assert names[0] != names[1] and all(len(name.encode()) <= 255 and name.startswith("長長") for name in names)
    files[0].touch()
    assert mirrored(files[:1], files[0], ".wav") == [Path("a.wav")]


def test_results_of_an_earlier_run_are_no_recordings(tmp_path: Path) -> None:
    files = [tmp_path / "a.wav", tmp_path / "out" / "a.wav"]
    assert without_results(files, tmp_path, tmp_path / "out") == files[:1]
    with pytest.raises(UserError) as caught:
        without_results(files, tmp_path, tmp_path)
    assert caught.value.code == "output_is_input"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_channels(tmp_path / "in" / "a.flac", speechlike(1), RATE)
    write_channels(tmp_path / "in" / "deep" / "b.wav", np.repeat(speechlike(1), 2, axis=0), RATE)
    (tmp_path / "in" / "broken.wav").write_text("no sound")
    return tmp_path / "in"


def test_a_folder_is_mirrored_and_done_once(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output, job = tmp_path / "out", tmp_path / "job"
    flags = ["--input", str(folder), "--output", str(output), "--job", str(job)]
    assert command.main(flags) == 0
    assert sorted(str(path.relative_to(output)) for path in output.rglob("*.wav")) == ["a.wav", "deep/b.wav"]
    assert read_channels(output / "deep" / "b.wav")[0].shape == (2, RATE)
    rejected = json.loads((output / "rejected.jsonl").read_text())
    assert rejected["file"] == str(folder / "broken.wav") and "broken.wav" in rejected["reason"]
    result = json.loads((job / "result.json").read_text())
    assert (result["files"], result["already"], result["rejected"]) == (2, 0, {"audio_unreadable": 1})
    write_channels(folder / "a.flac", speechlike(1, seed=5), RATE)
    assert command.main(flags) == 0
    result = json.loads((job / "result.json").read_text())
    assert (result["files"], result["already"]) == (1, 1), "only what changed is done again"
    assert command.main([*flags, "--strength", "3"]) == 2
    assert "strength" in capsys.readouterr().err


def test_results_of_other_recordings_stay_and_are_not_taken_for_new_ones(tmp_path: Path) -> None:
    for number, name in enumerate(("A/take.wav", "A/more.wav", "B/take.wav")):
        write_channels(tmp_path / name, speechlike(1, seed=number), RATE)
    output = tmp_path / "out"

    def cleaned(place: str, *more: str) -> dict[str, bytes]:
        assert command.main(["--input", str(tmp_path / place), "--output", str(output), *more]) == 0
        return {path.name: path.read_bytes() for path in list_audio(output)}

    first = cleaned("A")
    assert list(first) == ["more.wav", "take.wav"]
    second = cleaned("B")
    assert len(second) == 1 and next(iter(second)).startswith("take-")
    assert (output / "take.wav").read_bytes() == first["take.wav"]
    assert cleaned("A") == first and cleaned("B", "--fresh") == second
    (tmp_path / "A").rename(tmp_path / "C")
    assert cleaned("C") == first, "moved recordings are not done again"
    (tmp_path / "C" / "more.wav").write_text("damaged since")
    assert list(cleaned("C")) == ["take.wav"]
    assert list(cleaned("C", "--format", "flac")) == ["take.flac"]


def test_settings_that_were_given_up_half_way_are_not_taken_for_done(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"
    flags = ["--input", str(folder), "--output", str(output)]
    assert command.main(flags) == 0
    whole = (output / "a.wav").read_bytes()

    def killed(path: Path, *more: object) -> None:
        write_channels(path, *more)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(denoising, "write_channels", killed)
        assert command.main([*flags, "--strength", "0.1"]) == 3
    assert (output / "a.wav").read_bytes() != whole
    assert command.main(flags) == 0 and (output / "a.wav").read_bytes() == whole


def test_the_folder_of_another_step_is_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    assert cut.main(["--input", str(folder), "--output", str(output), "--processes", "1"]) == 0
    assert command.main(["--input", str(folder), "--output", str(output)]) == 2
    assert "(slice)" in capsys.readouterr().err
    other = tmp_path / "other"
    assert command.main(["--input", str(folder), "--output", str(other)]) == 0
    before = (other / "rejected.jsonl").read_bytes()
    assert cut.main(["--input", str(folder), "--output", str(other), "--processes", "1"]) == 2
    assert "(denoise)" in capsys.readouterr().err and (other / "rejected.jsonl").read_bytes() == before


@pytest.mark.parametrize("kind", ["mp3", "m4a"])
def test_many_channels_become_one_where_the_format_needs_it(tmp_path: Path, kind: str) -> None:
    tone = 0.3 * np.sin(np.arange(RATE) * 2 * np.pi * 440 / RATE).astype(np.float32)
    write_channels(tmp_path / f"six.{kind}", np.stack([tone] * 6), RATE)
    back, rate = read_channels(tmp_path / f"six.{kind}")
    assert back.shape[0] == 1 and abs(back.shape[1] / rate - 1) < 0.1
    assert back.std() == pytest.approx(tone.std(), rel=0.1)
    spectrum = np.abs(np.fft.rfft(back[0]))
    assert abs(np.argmax(spectrum) * rate / back.shape[1] - 440) < 3


def test_what_a_format_cannot_hold_costs_only_its_file(tmp_path: Path) -> None:
    write_channels(tmp_path / "in" / "a.wav", np.repeat(speechlike(1), 9, axis=0), RATE)
    write_channels(tmp_path / "in" / "b.wav", speechlike(1), RATE)
    assert command.main(["--input", str(tmp_path / "in"), "--output", str(tmp_path / "out"), "--format", "flac"]) == 0
    assert [path.name for path in list_audio(tmp_path / "out")] == ["b.flac"]
    rejected = json.loads((tmp_path / "out" / "rejected.jsonl").read_text())
    assert rejected["file"].endswith("a.wav") and "9 channels" in rejected["reason"]


def test_a_stop_leaves_no_half_files(folder: Path, tmp_path: Path) -> None:
    class Stop(StepProgress):
        asked = 0

        def should_stop(self) -> bool:
            self.asked += 1
            return self.asked > 1

    with pytest.raises(Stopped):
        denoise_files([folder / "a.flac"], folder, DenoiseOptions(), tmp_path / "out", Stop(None))
    assert not list((tmp_path / "out").rglob("*.wav"))


def test_a_stretch_of_the_padded_recording_is_that_of_the_whole() -> None:
    samples = speechlike(1)[0]
    whole = denoising._Padded(samples, 3000).read(0, len(samples) + 6000)
    assert np.abs(whole - np.pad(samples.astype(np.float64), 3000, mode="reflect")).max() < 1e-6
    parts = denoising._Padded(samples, 3000)
    for begin, end in ((0, 5000), (2000, 9000), (9000, 9100), (9050, len(whole))):
        assert np.array_equal(parts.read(begin, end), whole[begin:end])
