"""Chinese phrases composed of dictionary words, so that every frequent hanzi occurs often.

Natural text repeats a few hundred characters; a model that has met a character twice cannot read it. The words are
those of pypinyin's phrase dictionary whose characters are all frequent (GB 2312, first level).
"""

import numpy as np

from modules.corpus.texts import Phrase, is_common_hanzi

_WITH_TWO = (
    "{0}的{1}。",
    "{0}和{1}。",
    "我们说{0}，他们说{1}。",
    "这是{0}，那是{1}。",
    "有人喜欢{0}，有人喜欢{1}。",
    "先{0}，再{1}。",
    "{0}还是{1}？",
    "你知道{0}和{1}吗？",
    "{0}，{1}！",
    "从{0}到{1}都很重要。",
    "请写下{0}这个词。",
    "他想起了{0}，也想起了{1}。",
)
_WITH_IDIOM = ("{0}，{1}。", "真是{0}！", "俗话说，{0}。", "{0}，就像{1}一样。", "什么叫{0}？", "他觉得{0}。")


def composed_phrases(seed: int = 0, times: int = 3) -> list[Phrase]:
    """Phrases in which each frequent hanzi that the dictionary knows is used at least about `times` times.

    Needs pypinyin (a corpus-building extra).
    """
    from pypinyin.phrases_dict import phrases_dict  # a tool for building corpora, absent at run time

    rng = np.random.default_rng(seed)
    words = sorted(w for w in phrases_dict if 2 <= len(w) <= 4 and all(map(is_common_hanzi, w)))
    by_hanzi: dict[str, list[str]] = {}
    for word in words:
        for hanzi in dict.fromkeys(word):
            by_hanzi.setdefault(hanzi, []).append(word)
    chosen: list[str] = []
    for hanzi in sorted(by_hanzi):
        # short words are the frequent ones; idioms fill up
        having = sorted(by_hanzi[hanzi], key=lambda w: (len(w) > 2, rng.random()))
        chosen += having[:times]
    chosen = list(dict.fromkeys(chosen))
    order = rng.permutation(len(chosen))
    partners = rng.permutation(len(chosen))
    phrases = []
    for index, partner in zip(order, partners, strict=True):
        word = chosen[index]
        patterns = _WITH_IDIOM if len(word) == 4 else _WITH_TWO
        pattern = patterns[int(rng.integers(len(patterns)))]
        phrases.append(Phrase(pattern.format(word, chosen[partner]), "zh", "composed"))
    return phrases
