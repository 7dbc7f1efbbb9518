"""One judge: what it was asked, its ears (opened when first used), and the outputs that several parts look at."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from functools import cached_property
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modules.errors import UserError
from modules.evaluation.clips import (
    Clip,
    ClipReader,
    VoiceTest,
    corpus_clips,
    in_order,
    real_clips,
    sentences,
    voice_tests,
)
from modules.evaluation.results import Finding, Ledger, Progress, silent
from modules.inference.options import MAX_SEED
from modules.precision import Precision

if TYPE_CHECKING:
    from modules.evaluation.ears.hearing import Ear
    from modules.evaluation.recognizer import PhoneRecognizer
    from modules.evaluation.sets.readings import PhoneReader
    from modules.evaluation.speaking import Speaker, Spoken
    from modules.evaluation.voices import Embedder
    from modules.inference.parts import Parts
    from modules.speech.s3 import SemanticTokenizer

GROUPS = ("given", "synthetic", "real")
SETS = ("plausible", "switching", "melody", "leak", "robust_references")
"""Parts with texts or references of their own."""
_PLACES = {"failures": "failures.outputs"}
SYNTHETIC_VOICES = 40
REFUSALS = frozenset(
    "text_empty text_unspeakable gpt_prompt_too_long reference_no_speech reference_silent reference_too_short "
    "audio_empty audio_missing audio_unreadable".split()
)
"""What is wrong with one text or one recording; the others go on."""


@dataclass(frozen=True)
class JudgeOptions:
    """What to judge and with what.

    Args:
        models: model folder.
        corpus: corpus stores; their test splits hold sentences with phones and unseen voices. Without any, the
            sentences that come with the judge are spoken.
        manifest, speech: real recordings, see `clips.real_clips`.
        recognizer: weights of the judge's phone recogniser.
        whole: folder with the weights that training has and a model folder leaves out (`tools.ship --join` writes
            it): the posterior encoder for copy-synthesis, the recognition head for tokens.
        count: sentences a language; voices: most real speakers.
        gpt, vits2: weights to take instead of the model folder's.
        texts: sentences of one's own, see `sets.shipped.texts_of`.
        references, reference_list: voices of one's own, see `sets.references`.
        languages: only these; none = all that there are.
        per_voice: sentences of each language that every voice says; 0 = one for a real voice, in turn for given ones.
        guards: "on", "off" or "both"; empty = as the program speaks by default.
        precision: of the language model's weights, see `modules.gpt.engines`.
        deadline_seconds: speak no more than this long; 0 = as long as it takes.
    """

    models: Path
    corpus: tuple[Path, ...] = ()
    manifest: Path | None = None
    speech: Path | None = None
    recognizer: Path | None = None
    whole: Path | None = None
    count: int = 100
    voices: int = 48
    seed: int = 0
    device: str = "auto"
    precision: Precision = "float32"
    gpt: Path | None = None
    vits2: Path | None = None
    texts: Path | None = None
    references: Path | None = None
    reference_list: Path | None = None
    languages: tuple[str, ...] = ()
    per_voice: int = 0
    guards: str = ""
    deadline_seconds: float = 0.0


@dataclass(frozen=True)
class Request:
    """One output wanted: a sentence (its clip is the source audio, said by someone) in the voice of `reference`."""

    sentence: Clip
    reference: Clip


@dataclass
class Judge:
    """Shared by all parts.

    Attributes:
        kept: what a part keeps for another, by its name.
        refused: what was not spoken and why, by the keys of sentence and reference.
    """

    options: JudgeOptions
    folder: Path
    progress: Progress = silent
    reader: ClipReader = field(default_factory=ClipReader)
    started: float = field(default_factory=time.monotonic)
    _ledgers: dict[str, Ledger] = field(default_factory=dict)
    kept: dict[str, Any] = field(default_factory=dict)
    refused: dict[tuple[str, str], dict[str, str]] = field(default_factory=dict)
    _spoken: "dict[tuple[str, str], list[tuple[Request, Spoken]]]" = field(default_factory=dict)

    def ledger(self, name: str) -> Ledger:
        """The ledger `<name>.jsonl` of this judgement."""
        if name not in self._ledgers:
            self._ledgers[name] = Ledger(self.folder / f"{name}.jsonl")
        return self._ledgers[name]

    @cached_property
    def test_clips(self) -> list[Clip]:
        """Held-out clips of the corpora in the judged languages."""
        wanted = self.options.languages or None
        return [clip for folder in self.options.corpus for clip in corpus_clips(folder, languages=wanted)]

    @cached_property
    def synthetic(self) -> list[Clip]:
        """The synthetic ones among them, whose phones are certain."""
        found = [clip for clip in self.test_clips if clip.source == "synthetic"]
        if self.options.corpus and not found:
            raise UserError(
                "judge_no_sentences",
                "No corpus given holds a test split of synthetic speech; build one with tools.corpus synthetic.",
            )
        return found

    @cached_property
    def reading(self) -> "PhoneReader":
        """Phones of texts that have none."""
        from modules.evaluation.sets.readings import PhoneReader

        return PhoneReader()

    @cached_property
    def written(self) -> list[Clip]:
        """Sentences without source audio: one's own, or those that come with the judge."""
        from modules.evaluation.sets.shipped import plain_sentences, texts_of

        own = self.options.texts
        found = texts_of(own, self.reading) if own else plain_sentences()
        return [clip for clip in found if not self.options.languages or clip.language in self.options.languages]

    @cached_property
    def languages(self) -> list[str]:
        """What is judged, in the order in which it is told."""
        groups = self.requests.values()
        return in_order(request.sentence.language for requests in groups for request in requests)

    def check(self) -> None:
        """Raise a `UserError` where there is nothing to judge, or nothing to judge it with, see `requests.check`."""
        from modules.evaluation.requests import check

        check(self)

    def lines(self, language: str) -> list[Clip]:
        """Every sentence of a language: unseen ones of the corpus, else the written ones."""
        found = sentences(self.synthetic, language, self.options.seed)
        return found or [clip for clip in self.written if clip.language == language]

    def some_lines(self, part: str) -> list[Clip]:
        """Lines for a part that needs only a few: English ones, else those of the first judged language that has any.

        Raises:
            UserError: judge_no_sentence.
        """
        found = next((lines for language in ("en", *self.languages) if (lines := self.lines(language))), None)
        if found is None:
            raise UserError(
                "judge_no_sentence",
                "The part {part} has no sentence to speak; choose other languages or texts.",
                part=part,
            )
        return found

    @cached_property
    def voice_tests(self) -> dict[str, list[VoiceTest]]:
        """Speakers by group."""
        used = {request.reference.key for request in self.requests["synthetic"]}
        free = [clip for clip in self.synthetic if clip.key not in used]
        options = self.options
        voices = voice_tests(free, SYNTHETIC_VOICES, options.seed)
        return {"given": self.given_voices, "synthetic": voices, "real": self.real_voices}

    @cached_property
    def real_voices(self) -> list[VoiceTest]:
        """Real speakers that training has not heard."""
        options = self.options
        return voice_tests(real_clips(options.manifest, options.speech), options.voices, options.seed)

    @cached_property
    def given_voices(self) -> list[VoiceTest]:
        """The voices of a list or a folder, else the examples."""
        from modules.evaluation.sets import references

        options = self.options
        if options.reference_list:
            return references.as_voices(references.listed_clips(options.reference_list, self._leave_out))
        if options.references:
            return references.as_voices(references.folder_clips(options.references, self._leave_out))
        return references.as_voices(references.example_clips())

    def _leave_out(self, path: Path, error: UserError) -> None:
        self._refuse("given", None, str(path), path.name, error)

    def some_voices(self) -> list[VoiceTest]:
        """The voices for parts that need only a few: real ones before synthetic ones before given ones."""
        return self.real_voices or self.voice_tests["synthetic"] or self.given_voices

    def taken_voices(self, part: str, most: int | None = None, least: int = 1) -> list[VoiceTest]:
        """Those of `some_voices`, up to `most`, whose reference can be spoken from; the others are noted in `refused`.

        Raises:
            UserError: judge_too_few_voices; what `Speaker.reference` raises that lies not with one recording.
        """
        found = list(islice((test for test in self.some_voices() if self.takes(part, test.reference)), most))
        if len(found) < least:
            raise UserError(
                "judge_too_few_voices",
                "The part {part} needs voices that can be spoken from: {least} at the least, and there are {count}; "
                "give further recordings.",
                part=part,
                least=least,
                count=len(found),
            )
        return found

    @cached_property
    def requests(self) -> dict[str, list[Request]]:
        """Outputs that several parts look at, see `requests.wanted`."""
        from modules.evaluation.requests import wanted

        return wanted(self)

    @cached_property
    def parts(self) -> "Parts":
        """The parts of the system that is judged."""
        from modules.inference.parts import load_parts
        from modules.runtime import pick_device

        options = self.options
        device = pick_device(options.device)
        return load_parts(options.models, device, options.gpt, options.vits2, precision=options.precision)

    @cached_property
    def speaker(self) -> "Speaker":
        """The system that is judged."""
        from modules.evaluation.speaking import Speaker
        from modules.inference.synthesizer import Synthesizer

        units, frames = self.parts.text.encode, self.parts.gpt.model.expected_frames
        speaker = Speaker(Synthesizer(self.parts), self.reader, self.folder, lambda text: len(units(text)))
        speaker.usual_frames = lambda text: frames(units(text))
        return speaker

    @cached_property
    def recognizer(self) -> "PhoneRecognizer":
        """The judge's phone recogniser."""
        from modules.evaluation.recognizer import load_recognizer

        if self.options.recognizer is None:
            raise UserError(
                "judge_no_recognizer", "This part needs --recognizer; train one with tools.evaluate train-recognizer."
            )
        return load_recognizer(self.options.recognizer)

    @cached_property
    def ear(self) -> "Ear":
        """The recogniser with its memory and with what is known of its mistakes."""
        from modules.evaluation.ears.hearing import open_ear

        return open_ear(self)

    @cached_property
    def weight_files(self) -> dict[str, dict[str, Any]]:
        """Of each weight file that is judged: its name, stage, step and sha256."""
        from modules.evaluation.weights import weight_files

        return weight_files(self.options)

    @cached_property
    def posterior(self) -> Path | None:
        """Decoder weights with a posterior encoder.

        Raises:
            UserError: judge_whole_differs.
        """
        from modules.evaluation.weights import posterior_file

        return posterior_file(self.options)

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

    def say(self, request: Request, guards: str = "") -> "Spoken":
        """The output of a request; its seed follows from the sentence. `guards`: "on" or "off" instead of the judge's
        own choice."""
        seed = (self.options.seed + int(request.sentence.key[:6], 16)) % MAX_SEED
        options = guard_option(guards or self.options.guards)
        return self.speaker.say(request.sentence.text, [(request.reference, 1.0)], seed, **options)

    def say_all(self, group: str, guards: str = "") -> "list[tuple[Request, Spoken]]":
        """The outputs of a group; those that there was no time for are left out, for every part that asks."""
        guards = guards or self.options.guards
        guards = "on" if guards == "both" else guards
        if (group, guards) in self._spoken:
            return self._spoken[group, guards]
        spoken = self._spoken[group, guards] = []
        for request in self.requests[group]:
            if self.out_of_time(0.5 if self.options.guards == "both" and guards == "on" else 1.0):
                break  # the other pass needs its half
            output = self.attempt(group, request, guards)
            if output is not None:
                spoken.append((request, output))
            self.progress(f"speaking, {group} voices", len(spoken), len(self.requests[group]))
        return spoken

    def attempt(self, group: str, request: Request, guards: str = "") -> "Spoken | None":
        """`say`; None where the text or the reference is refused, which is noted in `refused`."""
        try:
            return self.say(request, guards)
        except UserError as error:
            if error.code not in REFUSALS:
                raise
            self._refuse(group, request.sentence, request.reference.key, request.reference.speaker, error)
            return None

    def takes(self, group: str, reference: Clip) -> bool:
        """Whether a reference can be spoken from; why not is noted in `refused`."""
        try:
            self.speaker.reference(reference)
        except UserError as error:
            if error.code not in REFUSALS:
                raise
            self._refuse(group, None, reference.key, reference.speaker, error)
            return False
        return True

    def _refuse(self, group: str, sentence: Clip | None, reference: str, voice: str, error: UserError) -> None:
        """Note it; `sentence` is None where the recording alone is refused."""
        language, text, key = (sentence.language, sentence.text, sentence.key) if sentence else ("", "", "")
        told = {"group": group, "language": language, "text": text, "voice": voice}
        self.refused[key, reference] = {**told, "code": error.code, "reason": str(error)}

    def spoken_count(self, group: str) -> int:
        """How many outputs of a group were spoken so far; with and without guards are two."""
        return sum(len(spoken) for (name, _), spoken in self._spoken.items() if name == group)

    def out_of_time(self, share: float = 1.0) -> bool:
        """Whether the time for speaking is over, or so many times that time for what follows it."""
        limit = self.options.deadline_seconds
        return bool(limit) and time.monotonic() - self.started > share * limit


def guard_option(guards: str) -> dict[str, bool]:
    """The choice of guards as an option of speaking; "both" speaks with them here.

    Raises:
        UserError: judge_no_guards where they cannot be chosen.
    """
    if not guards:
        return {}
    from modules.inference.options import SpeakOptions

    if "guards" not in {spec.name for spec in fields(SpeakOptions)}:
        raise UserError("judge_no_guards", "Guards cannot be switched in this version; leave --guards out.")
    return {"guards": guards != "off"}


def open_judge(options: JudgeOptions, folder: Path, progress: Progress = silent) -> Judge:
    """A judge that keeps its outputs and results in `folder`."""
    guard_option(options.guards)
    Path(folder).mkdir(parents=True, exist_ok=True)
    return Judge(options, Path(folder), progress)


def run_part(part: str, judge: Judge) -> Finding:
    """Run one part; each is a module of this room, or of its room of sets, with `judge_<part>(judge) -> Finding`."""
    place = f"sets.{part}" if part in SETS else _PLACES.get(part, part)
    function: Callable[[Judge], Finding] = getattr(import_module(f"modules.evaluation.{place}"), f"judge_{part}")
    return function(judge)
