"""Separation: which files are read as models, what comes out of a recording, whole folders."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from modules.audio.channels import read_channels, write_channels
from modules.corpus import separation
from modules.corpus.separation import Separator, separate_files
from modules.corpus.separation_models import (
    BAGS,
    PUBLISHED,
    load_separator,
    load_separators,
    save_separator,
)
from modules.data.sources import list_audio
from modules.errors import Stopped, UserError
from modules.progress import StepProgress
from tools import separate

RATE = 44100
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """A Demucs of random weights."""
    from fractions import Fraction

    from demucs.htdemucs import HTDemucs

    torch.manual_seed(0)
    return HTDemucs(
        sources=["drums", "bass", "other", "vocals"],
        channels=8,
        nfft=1024,
        depth=4,
        t_layers=1,
        t_heads=2,
        segment=Fraction(1, 2),
        bottom_channels=0,
    ).eval()


@pytest.fixture(scope="module")
def model_file(network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_separator(tmp_path_factory.mktemp("demucs") / "tiny.safetensors", network)


def package(network: nn.Module) -> dict:
    args, kwargs = network._init_args_kwargs
    state = {name: tensor.half() for name, tensor in network.state_dict().items()}
    return {"klass": type(network), "args": args, "kwargs": kwargs, "state": state, "training_args": {"a": 1}}


def save_th(folder: Path, content: object, signature: str = "0badcafe") -> tuple[Path, dict[str, str]]:
    """A file as Demucs publishes it, and a catalogue that knows it."""
    torch.save(content, folder / "raw")
    digits = hashlib.sha256((folder / "raw").read_bytes()).hexdigest()[:8]
    path = (folder / "raw").rename(folder / f"{signature}-{digits}.th")
    return path, {path.name: digits}


def music(seconds: float, channels: int = 2, rate: int = RATE, seed: int = 0) -> np.ndarray:
    wav = 0.1 * np.random.default_rng(seed).standard_normal((channels, int(seconds * rate)))
    return wav.astype(np.float32)


# ---- model files


def same_weights(a: nn.Module, b: nn.Module, tolerance: float = 0.0) -> bool:
    return all(torch.allclose(x, y, atol=tolerance) for x, y in zip(a.state_dict().values(), b.state_dict().values()))


def test_safetensors_come_back(network: nn.Module, model_file: Path) -> None:
    loaded = load_separator(model_file)
    assert type(loaded) is type(network) and loaded.segment == network.segment and not loaded.training
    assert same_weights(loaded, network)


def test_a_published_pickle_is_read_if_its_hash_is_right(network: nn.Module, tmp_path: Path) -> None:
    path, catalogue = save_th(tmp_path, package(network))
    loaded = load_separator(path, catalogue)
    assert same_weights(loaded, network, 1e-3) and next(loaded.parameters()).dtype == torch.float32
    with pytest.raises(UserError, match="not in the catalogue") as caught:
        load_separator(path)
    assert caught.value.code == "separation_model_refused"
    with open(path, "ab") as file:
        file.write(b"more")
    with pytest.raises(UserError, match="sha256") as caught:
        load_separator(path, catalogue)
    assert caught.value.code == "separation_model_refused"


class Trap:
    """Leaves a trace when it is unpickled."""

    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self) -> tuple:
        return Path.touch, (self.trace,)


def test_no_program_is_run_by_a_pickle(network: nn.Module, tmp_path: Path) -> None:
    path, catalogue = save_th(tmp_path, {**package(network), "training_args": Trap(tmp_path / "trace")})
    with pytest.raises(UserError) as caught:
        load_separator(path, catalogue)
    assert caught.value.code == "separation_model_broken" and not (tmp_path / "trace").exists()


@pytest.mark.parametrize(
    ("metadata", "code"),
    [
        ({}, "separation_model_refused"),
        ({"klass": "os.system", "args": "[]", "kwargs": "{}"}, "separation_model_refused"),
        ({"klass": "demucs.htdemucs.HTDemucs", "structure": "{}"}, "separation_model_refused"),
        ({"klass": "demucs.htdemucs.HTDemucs", "args": "[", "kwargs": "{}"}, "separation_model_broken"),
        ({"klass": "demucs.htdemucs.HTDemucs", "args": "[]", "kwargs": "{}"}, "separation_model_broken"),
    ],
)
def test_files_that_are_no_models(tmp_path: Path, metadata: dict[str, str], code: str) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "x.safetensors", metadata or None)
    with pytest.raises(UserError, match=r"x\.safetensors") as caught:
        load_separator(tmp_path / "x.safetensors")
    assert caught.value.code == code


def test_a_damaged_file_and_a_model_without_vocals(tmp_path: Path, network: nn.Module) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(UserError) as caught:
        load_separator(tmp_path / "x.safetensors")
    assert caught.value.code == "separation_model_broken"
    content = package(network)
    content["kwargs"] = {**content["kwargs"], "sources": ["drums", "bass", "other", "piano"]}
    path, catalogue = save_th(tmp_path, content)
    with pytest.raises(UserError, match="piano") as caught:
        load_separator(path, catalogue)
    assert caught.value.code == "separation_no_vocals"


def test_the_catalogue_is_that_of_the_library() -> None:
    from demucs import pretrained

    listed = (pretrained.REMOTE_ROOT / "files.txt").read_text().split()
    assert set(PUBLISHED) <= set(listed)
    for name, bag in BAGS.items():
        text = (pretrained.REMOTE_ROOT / f"{name}.yaml").read_text()
        assert all(signature in text for signature in bag.files)


def test_missing_weights_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        load_separators("mdx_extra", tmp_path, cache=tmp_path / "cache")  # the tests are offline
    text = str(caught.value)
    assert caught.value.code == "separation_model_missing"
    wanted = ("e51eebcc.safetensors", "cfa93e08-61801ae1.th", "adefossez/Demucs-mdx_extra", "670 MB")
    assert all(word in text for word in (*wanted, str(tmp_path / "demucs")))
    with pytest.raises(UserError, match="htdemucs_ft") as caught:
        load_separators("spleeter", tmp_path)
    assert caught.value.code == "separation_model_unknown"


def test_weights_put_there_by_hand_are_found(tmp_path: Path, network: nn.Module) -> None:
    for signature in BAGS["mdx_extra"].files:
        save_separator(tmp_path / "demucs" / f"{signature}.safetensors", network)
    networks = load_separators("mdx_extra", tmp_path, cache=tmp_path / "cache")
    assert len(networks) == 4 and {one.segment for one in networks} == {44}


# ---- sound


@pytest.mark.parametrize(("channels", "rate"), [(1, RATE), (2, RATE), (1, 16000), (2, 48000)])
def test_both_parts_add_up_to_the_recording(network: nn.Module, channels: int, rate: int) -> None:
    mix = music(0.9, channels, rate)
    vocals, rest = Separator([network], CPU).separate(mix, rate)
    assert vocals.shape == rest.shape == mix.shape
    assert np.abs(vocals + rest - mix).max() < 1e-6
    assert np.isfinite(vocals).all()


def test_the_voice_is_what_the_library_finds(network: nn.Module) -> None:
    from demucs.apply import apply_model

    mix = music(0.8)
    scale = mix.mean(0).std()
    with torch.no_grad():
        stems = apply_model(network, torch.from_numpy((mix - mix.mean(0).mean()) / scale)[None], shifts=0)
    vocals, _ = Separator([network], CPU).separate(mix, RATE)
    assert np.abs(vocals - stems[0, 3].numpy() * scale).max() < 1e-4
    again, _ = Separator([network], CPU).separate(mix, RATE)
    assert np.array_equal(vocals, again)
    twice, _ = Separator([network, network], CPU).separate(mix, RATE)
    assert np.abs(vocals - twice).max() < 1e-6


def test_blocks_of_a_long_recording_fit_together(network: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    mix = music(2.2)
    monkeypatch.setattr(separation, "_CROSSFADE_SECONDS", 1)
    whole, _ = Separator([network], CPU).separate(mix, RATE)
    monkeypatch.setattr(separation, "_BLOCK_SECONDS", 1)
    shares: list[float] = []
    pieces, _ = Separator([network], CPU).separate(mix, RATE, shares.append)
    # Pieces begin elsewhere and a random network hears the difference; what must not be is a gap or a double.
    assert 0.5 < pieces[:, RATE // 2 : -RATE // 2].std() / whole[:, RATE // 2 : -RATE // 2].std() < 1.5
    assert shares == sorted(shares) and shares[-1] == 1.0
    spans = list(separation._blocks(10, 3, 1))
    assert spans == [(0, 4), (3, 7), (6, 10)] and list(separation._blocks(4, 3, 1)) == [(0, 4)]


def test_silence_and_many_channels(network: nn.Module) -> None:
    vocals, rest = Separator([network], CPU).separate(np.zeros((1, 1000), dtype=np.float32), RATE)
    assert not vocals.any() and not rest.any()
    vocals, rest = Separator([network], CPU).separate(music(0.3, 6), RATE)
    assert vocals.shape == (1, int(0.3 * RATE))
    vocals, rest = Separator([network], CPU).separate(music(0.3)[:, :1], RATE)
    assert vocals.shape == (2, 1)


def test_a_callback_ends_the_work_within_a_piece(network: nn.Module) -> None:
    calls: list[float] = []

    def stop(share: float) -> None:
        calls.append(share)
        if len(calls) == 2:
            raise Stopped

    with pytest.raises(Stopped):
        Separator([network], CPU).separate(music(2), RATE, stop)
    assert len(calls) == 2 and calls[-1] < 1


# ---- files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_channels(tmp_path / "in" / "song.wav", music(0.6), RATE)
    write_channels(tmp_path / "in" / "deep" / "talk.flac", music(0.6, 1, 16000), 16000)
    (tmp_path / "in" / "broken.mp3").write_text("no sound")
    return tmp_path / "in"


def test_a_folder_is_mirrored(
    folder: Path, model_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, job = tmp_path / "out", tmp_path / "job"
    flags = ["--input", str(folder), "--output", str(output), "--model", str(model_file), "--job", str(job)]
    assert separate.main([*flags, "--device", "cpu"]) == 0
    for kind in ("vocals", "accompaniment"):
        assert sorted(str(path.relative_to(output / kind)) for path in (output / kind).rglob("*.*")) == [
            "deep/talk.flac",
            "song.flac",
        ]
    mix, rate = read_channels(folder / "deep" / "talk.flac")
    parts = [read_channels(output / kind / "deep" / "talk.flac") for kind in ("vocals", "accompaniment")]
    assert {found for _, found in parts} == {rate}
    assert np.abs(parts[0][0] + parts[1][0] - mix).max() < 2.1 / 32768
    rejected = json.loads((output / "rejected.jsonl").read_text())
    assert rejected["file"] == str(folder / "broken.mp3")
    result = json.loads((job / "result.json").read_text())
    assert (result["files"], result["already"], result["rejected"]) == (2, 0, {"audio_unreadable": 1})
    assert separate.main([*flags, "--device", "cpu"]) == 0
    assert json.loads((job / "result.json").read_text())["already"] == 2
    (job / "stop").touch()
    assert separate.main([*flags, "--fresh"]) == 3
    (job / "stop").unlink()
    capsys.readouterr()
    assert separate.main([*flags, "--overlap", "2"]) == 2
    assert "overlap" in capsys.readouterr().err


def test_a_model_that_fails_costs_only_its_file(folder: Path, network: nn.Module, tmp_path: Path) -> None:
    class Choosy(Separator):
        def separate(self, mix: np.ndarray, sample_rate: int, on_progress=None) -> tuple[np.ndarray, np.ndarray]:
            if sample_rate != 16000 or self.overlap > 0.5:
                raise RuntimeError("odd shape")
            return mix, np.zeros_like(mix)

    files = sorted(folder.rglob("*.*"))
    report = separate_files(files, folder, Choosy([network], CPU), tmp_path / "out", "wav", StepProgress(None))
    assert report.files == 1 and report.rejected == {"audio_unreadable": 1, "separation_failed": 1}
    with pytest.raises(UserError) as caught:
        separate_files(files, folder, Choosy([network], CPU, 0.6), tmp_path / "no", "wav", StepProgress(None))
    assert caught.value.code == "separation_failed"


def test_voices_of_other_recordings_stay_and_are_not_taken_for_new_ones(network: nn.Module, tmp_path: Path) -> None:
    class Halves(Separator):
        def separate(self, mix: np.ndarray, sample_rate: int, on_progress=None) -> tuple[np.ndarray, np.ndarray]:
            return mix / 2, mix / 2

    write_channels(tmp_path / "A" / "take.wav", music(0.1, seed=1), RATE)
    write_channels(tmp_path / "A" / "more.wav", music(0.1, seed=2), RATE)
    write_channels(tmp_path / "B" / "take.wav", music(0.1, seed=3), RATE)
    output = tmp_path / "out"

    def voices(place: str) -> dict[str, bytes]:
        files = sorted((tmp_path / place).iterdir())
        separate_files(files, tmp_path / place, Halves([network], CPU), output, "wav", StepProgress(None))
        for kind in ("vocals", "accompaniment"):
            assert len(list_audio(output / kind)) == len(files)
        return {path.name: path.read_bytes() for path in list_audio(output / "vocals")}

    first = voices("A")
    (other,) = voices("B")
    assert other.startswith("take-") and (output / "vocals" / "take.wav").read_bytes() == first["take.wav"]
    assert voices("A") == first


def test_a_stop_in_the_middle_leaves_no_half_files(folder: Path, network: nn.Module, tmp_path: Path) -> None:
    class Stop(StepProgress):
        asked = 0

        def should_stop(self) -> bool:
            self.asked += 1
            return self.asked > 2

    files = [folder / "song.wav"]
    with pytest.raises(Stopped):
        separate_files(files, folder, Separator([network], CPU), tmp_path / "out", "wav", Stop(None))
    assert not list((tmp_path / "out").rglob("*.wav"))
