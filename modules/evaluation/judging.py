"""One judge: what it was asked, its ears (opened when first used), and the outputs that several parts look at."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from modules.errors import UserError
from modules.evaluation.clips import (
    LANGUAGES,
    Clip,
    ClipReader,
    VoiceTest,
    corpus_clips,
    own_reference,
    real_clips,
    sentences,
    voice_tests,
)
from modules.evaluation.results import Finding, Progress, silent

if TYPE_CHECKING:
    from modules.evaluation.recognizer import PhoneRecognizer
    from modules.evaluation.speaking import Speaker, Spoken
    from modules.evaluation.voices import Embedder
    from modules.speech.s3 import SemanticTokenizer

GROUPS = ("synthetic", "real")
SYNTHETIC_VOICES = 40


@dataclass(frozen=True)
class JudgeOptions:
    """What to judge and with what.

    Args:
        models: model folder.
        corpus: corpus stores; their test splits hold sentences with phones and unseen voices.
        manifest, speech: real recordings, see `clips.real_clips`.
        recognizer: weights of the judge's phone recogniser.
        whole: folder with the weights that training has and a model folder leaves out (`tools.ship --join` writes
            it): the posterior encoder for copy-synthesis, the recognition head for tokens.
        count: sentences a language; voices: most real speakers.
    """

    models: Path
    corpus: tuple[Path, ...]
    manifest: Path | None = None
    speech: Path | None = None
    recognizer: Path | None = None
    whole: Path | None = None
    count: int = 100
    voices: int = 48
    seed: int = 0
    device: str = "auto"


@dataclass(frozen=True)
class Request:
    """One output wanted: a sentence (its clip is the source audio, said by someone) in the voice of `reference`."""

    sentence: Clip
    reference: Clip


@dataclass
class Judge:
    """Shared by all parts."""

    options: JudgeOptions
    folder: Path
    progress: Progress = silent
    reader: ClipReader = field(default_factory=ClipReader)

    @cached_property
    def test_clips(self) -> list[Clip]:
        """Held-out clips of the corpora in the judged languages."""
        return [clip for folder in self.options.corpus for clip in corpus_clips(folder)]

    @cached_property
    def synthetic(self) -> list[Clip]:
        """The synthetic ones among them, whose phones are certain."""
        found = [clip for clip in self.test_clips if clip.source == "synthetic"]
        if not found:
            raise UserError(
                "judge_no_sentences",
                "No corpus given holds a test split of synthetic speech; build one with tools.corpus synthetic.",
            )
        return found

    @cached_property
    def voice_tests(self) -> dict[str, list[VoiceTest]]:
        """Speakers by group."""
        used = {request.reference.key for request in self.requests["synthetic"]}
        free = [clip for clip in self.synthetic if clip.key not in used]
        options = self.options
        real = voice_tests(real_clips(options.manifest, options.speech), options.voices, options.seed)
        return {"synthetic": voice_tests(free, SYNTHETIC_VOICES, options.seed), "real": real}

    @cached_property
    def requests(self) -> dict[str, list[Request]]:
        """Outputs that several parts look at.

        synthetic: `count` sentences a language, each in the unseen voice that says it in the corpus.
        real: every real speaker says one sentence of each language.
        """
        options, found = self.options, {group: [] for group in GROUPS}
        for language in LANGUAGES:
            for clip in sentences(self.synthetic, language, options.seed)[: options.count]:
                reference = own_reference(clip, self.synthetic)
                if reference is not None:
                    found["synthetic"].append(Request(clip, reference))
        real = voice_tests(real_clips(options.manifest, options.speech), options.voices, options.seed)
        for language in LANGUAGES:
            lines = sentences(self.synthetic, language, options.seed)
            for number, test in enumerate(real if lines else ()):
                found["real"].append(Request(lines[number % len(lines)], test.reference))
        return found

    @cached_property
    def speaker(self) -> "Speaker":
        """The system that is judged."""
        from modules.evaluation.speaking import Speaker
        from modules.inference.parts import load_parts
        from modules.inference.synthesizer import Synthesizer
        from modules.runtime import pick_device

        parts = load_parts(self.options.models, pick_device(self.options.device))
        return Speaker(Synthesizer(parts), self.reader, self.folder, lambda text: len(parts.text.encode(text)))

    @cached_property
    def recognizer(self) -> "PhoneRecognizer":
        """The judge's phone recogniser."""
        from modules.evaluation.recognizer import load_recognizer

        if self.options.recognizer is None:
            raise UserError(
                "judge_no_recognizer", "This part needs --recognizer; train one with tools.evaluate train-recognizer."
            )
        return load_recognizer(self.options.recognizer)

    @property
    def posterior(self) -> Path | None:
        """Decoder weights with a posterior encoder."""
        from modules.inference.parts import VITS2_FILE

        return self.options.whole / VITS2_FILE if self.options.whole else None

    @cached_property
    def token_reader(self) -> "SemanticTokenizer | None":
        """The judged tokenizer with its recognition head."""
        from modules.inference.parts import S3_FILE
        from modules.speech.train import load_tokenizer

        return load_tokenizer(self.options.whole / S3_FILE, with_recogniser=True) if self.options.whole else None

    @cached_property
    def embedder(self) -> "Embedder":
        """Speaker embeddings."""
        from modules.evaluation.voices import Embedder

        return Embedder()

    def say(self, request: Request) -> "Spoken":
        """The output of a request; its seed follows from the sentence."""
        seed = (self.options.seed + int(request.sentence.key[:6], 16)) % 2**31
        return self.speaker.say(request.sentence.text, [(request.reference, 1.0)], seed)

    def say_all(self, group: str) -> "list[tuple[Request, Spoken]]":
        """The outputs of a group."""
        spoken = []
        for request in self.requests[group]:
            spoken.append((request, self.say(request)))
            self.progress(f"speaking, {group} voices", len(spoken), len(self.requests[group]))
        return spoken


def open_judge(options: JudgeOptions, folder: Path, progress: Progress = silent) -> Judge:
    """A judge that keeps its outputs and results in `folder`."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    return Judge(options, Path(folder), progress)


def run_part(part: str, judge: Judge) -> Finding:
    """Run one part; each is a module of this room with `judge_<part>(judge) -> Finding`."""
    function: Callable[[Judge], Finding] = getattr(import_module(f"modules.evaluation.{part}"), f"judge_{part}")
    return function(judge)


def heading(judge: Judge) -> str:
    """First lines of the report: what was judged."""
    from modules.checkpoint import file_hash, load_weights

    lines = ["# Evaluation", "", f"Seed {judge.options.seed}. Nobody listened: every figure is a machine's.", ""]
    for path in sorted(judge.options.models.glob("*.safetensors")):
        lineage = load_weights(path).lineage
        lines.append(f"- {path.name}: {lineage.stage}, step {lineage.step}, sha256 {file_hash(path)[:12]}")
    return "\n".join(lines) + "\n"
