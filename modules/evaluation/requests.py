"""Which sentences are said in which voices: the outputs that several parts look at."""

from modules.errors import UserError
from modules.evaluation.clips import Clip, in_order, own_reference, sentences
from modules.evaluation.judging import GROUPS, Judge, Request


def wanted(judge: Judge) -> dict[str, list[Request]]:
    """Requests by group; given ones take the languages in turn, so that an early end leaves some of each.

    given: the sentences that come with the judge, or one's own, in the given or the example voices; where no corpus is
        given, or texts or references are.
    synthetic: `count` sentences a language, each in the unseen voice that says it in the corpus.
    real: every real speaker says one sentence of each language, or as many as asked for.
    """
    options, found = judge.options, {group: [] for group in GROUPS}
    if not options.corpus or options.texts or options.references or options.reference_list:
        found["given"] = _given(judge)
    if options.corpus:
        for language in in_order(clip.language for clip in judge.synthetic):
            lines = sentences(judge.synthetic, language, options.seed)
            found["synthetic"] += _own_voices(judge, lines)
            found["real"] += _spread(lines, [test.reference for test in judge.real_voices], max(1, options.per_voice))
    return found


def check(judge: Judge) -> None:
    """Whether there is anything to judge, and whether what all parts need can be opened: a part that fails later costs
    the minutes before it.

    Raises:
        UserError: judge_nothing, judge_recordings_need_corpus, judge_whole_differs; those of the weights that are
            judged, and of the recogniser that is given.
    """
    options = judge.options
    if (options.manifest or options.speech) and not options.corpus:
        raise UserError(
            "judge_recordings_need_corpus",
            "--manifest and --speech give voices for the sentences of a corpus; give --corpus as well, or "
            "--references for recordings of your own.",
        )
    if not any(judge.requests.values()):
        raise UserError(
            "judge_nothing",
            "There is nothing to judge: no sentence of {languages} and no voice to say it; choose other languages, "
            "texts or voices.",
            languages=", ".join(options.languages) or "any language",
        )
    _ = judge.posterior, judge.parts
    if options.recognizer is not None:
        _ = judge.ear


def _own_voices(judge: Judge, lines: list[Clip]) -> list[Request]:
    pairs = [(clip, own_reference(clip, judge.synthetic)) for clip in lines[: judge.options.count]]
    return [Request(clip, reference) for clip, reference in pairs if reference is not None]


def _given(judge: Judge) -> list[Request]:
    by_language: dict[str, list[Clip]] = {}
    for clip in judge.written:
        by_language.setdefault(clip.language, []).append(clip)
    voices = [test.reference for test in judge.given_voices]
    if judge.options.per_voice:
        return [r for lines in by_language.values() for r in _spread(lines, voices, judge.options.per_voice)]
    turns: list[tuple[int, Request]] = []
    for place, lines in enumerate(by_language.values()):
        for number, clip in enumerate(lines[: judge.options.count]):
            turns.append((number, Request(clip, voices[(number + place) % len(voices)])))
    return [request for _, request in sorted(turns, key=lambda turn: turn[0])]


def _spread(lines: list[Clip], voices: list[Clip], each: int) -> list[Request]:
    """Every voice says `each` of the lines, all lines in turn; no line twice in one voice."""
    each = min(each, len(lines))
    return [
        Request(lines[(number * each + step) % len(lines)], voice)
        for number, voice in enumerate(voices)
        for step in range(each)
    ]
