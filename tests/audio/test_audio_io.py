"""Laws of sound files: what is written is read, every container opens, a bad file is told and never a traceback."""

import io
import math
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from modules.audio.io import probe, read, to_mono, to_pcm16, write
from modules.errors import UserError

RATE = 16000


def _wav(seconds: float = 1.0, rate: int = RATE) -> Tensor:
    times = torch.arange(int(seconds * rate)) / rate
    return 0.3 * torch.sin(2 * math.pi * 220 * times) + 0.1 * torch.sin(2 * math.pi * 660 * times)


def _encode(path: Path, container: str, codec: str, rate: int, samples: np.ndarray) -> None:
    with av.open(str(path), "w", format=container) as out:
        stream = out.add_stream(codec, rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples[None].astype(np.float32), format="fltp", layout="mono")
        frame.sample_rate = rate
        for converted in av.AudioResampler(
            format=stream.format.name, layout="mono", rate=rate, frame_size=stream.frame_size or 0
        ).resample(frame):
            out.mux(stream.encode(converted))
        out.mux(stream.encode(None))


def _code(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read(path, RATE)
    assert path.name in str(caught.value)
    with pytest.raises(UserError) as probed:
        probe(path)
    assert probed.value.code == caught.value.code
    return caught.value.code


def test_written_wav_is_read_back_to_the_bit(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "名字 & é.wav"
    write(path, _wav(), RATE)
    first = read(path, RATE)
    assert first.dtype == torch.float32 and torch.allclose(first, _wav(), atol=1 / 32768)
    write(path, first, RATE)
    assert torch.equal(read(path, RATE), first)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_extremes_are_clipped_not_wrapped(tmp_path: Path) -> None:
    write(tmp_path / "a.wav", torch.tensor([2.0, -2.0, 1.0, -1.0, math.nan, math.inf]), RATE)
    assert to_pcm16(np.array([2.0, -2.0, np.nan])).tolist() == [32767, -32768, 0]
    assert soundfile.read(tmp_path / "a.wav", dtype="int16")[0].tolist() == [32767, -32768, 32767, -32768, 0, 32767]


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
def test_any_rate_is_resampled(tmp_path: Path, rate: int) -> None:
    write(tmp_path / "a.wav", _wav(1, rate), rate)
    wav = read(tmp_path / "a.wav", RATE)
    assert abs(len(wav) - RATE) <= 1
    assert torch.allclose(wav[800:-800], _wav()[800 : len(wav) - 800], atol=2e-3)


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW"])
def test_any_sample_format_is_read(tmp_path: Path, subtype: str) -> None:
    soundfile.write(tmp_path / "a.wav", _wav().numpy(), RATE, subtype=subtype)
    assert torch.allclose(read(tmp_path / "a.wav", RATE), _wav(), atol=0.02)


@pytest.mark.parametrize(
    ("name", "container", "codec"),
    [("a.m4a", "mp4", "aac"), ("a.webm", "webm", "libopus"), ("a.mp4", "mp4", "aac"), ("a.flac", "flac", "flac")],
)
def test_containers_with_and_without_soundfile(tmp_path: Path, name: str, container: str, codec: str) -> None:
    _encode(tmp_path / name, container, codec, 48000, _wav(1, 48000).numpy())
    wav, info = read(tmp_path / name, RATE), probe(tmp_path / name)
    assert info.seconds == pytest.approx(1, abs=0.1) and (info.sample_rate, info.channels) == (48000, 1)
    assert len(wav) == pytest.approx(RATE, rel=0.1)
    assert float(wav.square().mean().sqrt()) == pytest.approx(float(_wav().square().mean().sqrt()), rel=0.1)


@pytest.mark.parametrize("format", ["MP3", "OGG", "FLAC"])
def test_a_wrong_extension_does_not_matter(tmp_path: Path, format: str) -> None:
    for name in ("a.wav", "a.raw", "a", "a.TXT"):
        data = io.BytesIO()
        soundfile.write(data, _wav().numpy(), RATE, format=format)
        (tmp_path / name).write_bytes(data.getvalue())
        assert len(read(tmp_path / name, RATE)) == pytest.approx(RATE, rel=0.1)
        assert probe(tmp_path / name).seconds == pytest.approx(1, rel=0.1)


def test_channels_are_mixed_unless_they_cancel(tmp_path: Path) -> None:
    wav = _wav().numpy()
    for pair, expected in (
        ((wav, wav), wav),
        ((wav, 0 * wav), wav / 2),
        ((wav, -wav), wav),
        ((0.5 * wav, -wav), wav * -0.25),
        ((0.9 * wav, -wav), -wav),
    ):
        soundfile.write(tmp_path / "a.wav", np.stack(pair, 1), RATE, subtype="FLOAT")
        assert torch.allclose(read(tmp_path / "a.wav", RATE), torch.from_numpy(expected), atol=1e-6)
    assert probe(tmp_path / "a.wav").channels == 2
    assert not to_mono(np.zeros((10, 2), np.float32)).any()


def test_bad_samples_become_silence(tmp_path: Path) -> None:
    samples = _wav().numpy().copy()
    samples[[5, 6, 7]] = np.nan, np.inf, -np.inf
    soundfile.write(tmp_path / "a.wav", samples, RATE, subtype="FLOAT")
    wav = read(tmp_path / "a.wav", RATE)
    assert wav.isfinite().all() and not wav[5:8].any()


def test_not_a_sound_is_told(tmp_path: Path) -> None:
    assert _code(tmp_path / "none.wav") == "audio_missing"
    (tmp_path / "folder.wav").mkdir()
    assert _code(tmp_path / "folder.wav") == "audio_missing"
    (tmp_path / "zero.wav").touch()
    assert _code(tmp_path / "zero.wav") == "audio_empty"
    soundfile.write(tmp_path / "header.wav", np.zeros(0), RATE)
    assert _code(tmp_path / "header.wav") == "audio_empty"
    for name in ("text.wav", "text.mp3", "text.m4a", "headerless.raw"):
        (tmp_path / name).write_text("This is not a sound.\n" * 50)
        assert _code(tmp_path / name) == "audio_unreadable"
    noise = np.random.default_rng(0).integers(0, 256, 20000, dtype=np.uint8).tobytes()
    (tmp_path / "noise.wav").write_bytes(noise)
    assert _code(tmp_path / "noise.wav") == "audio_unreadable"


def test_what_precedes_a_defect_is_used(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "whole.flac", np.random.default_rng(0).normal(0, 0.1, 2 * RATE), RATE)
    whole = (tmp_path / "whole.flac").read_bytes()
    (tmp_path / "cut.flac").write_bytes(whole[: len(whole) // 2])
    cut = read(tmp_path / "cut.flac", RATE)
    assert 0.5 * RATE < len(cut) < 1.1 * RATE
    assert torch.equal(cut[: RATE // 2], read(tmp_path / "whole.flac", RATE)[: RATE // 2])
    write(tmp_path / "whole.wav", _wav(), RATE)
    (tmp_path / "cut.wav").write_bytes((tmp_path / "whole.wav").read_bytes()[: 44 + RATE])
    assert torch.equal(read(tmp_path / "cut.wav", RATE), read(tmp_path / "whole.wav", RATE)[: RATE // 2])


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be"):
        write(tmp_path / "a.wav", torch.zeros(2, 5), RATE)
    with pytest.raises((soundfile.LibsndfileError, ValueError, TypeError, OSError)):
        write(tmp_path / "a.wav", torch.zeros(5), -1)
    assert not list(tmp_path.iterdir())


def test_real_files_are_read_or_told(speech_dir: Path | None) -> None:
    if speech_dir is None:
        pytest.skip("needs --speech")
    told = {}
    for path in sorted((speech_dir / "odd").iterdir()):
        try:
            wav = read(path, RATE)
            assert wav.ndim == 1 and wav.isfinite().all() and len(wav)
        except UserError as error:
            told[path.name] = error.code
    assert told["header_only.wav"] == told["zero_length.wav"] == "audio_empty"
    assert told["text_named.wav"] == told["video_no_audio.mp4"] == "audio_unreadable"
    assert not {"speech.m4a", "speech.webm", "speech.opus", "speech.mp3", "corrupt_middle.flac"} & set(told)
    assert float(read(speech_dir / "odd" / "stereo_antiphase.wav", RATE).abs().max()) > 0.1
