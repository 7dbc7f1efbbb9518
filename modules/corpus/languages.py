"""The languages whose texts the corpus builder knows: letters, function words, marks and usual lengths.

One row per language. A language without a row can still be spoken from the user's own files, where eSpeak NG has a
voice, but its text is not cleaned by rules of its own.
"""

from dataclasses import dataclass

_LATIN = "abcdefghijklmnopqrstuvwxyz"
HAN, KANA, HANGUL, CYRILLIC = "\u4e00-\u9fff", "\u3040-\u30ff々", "\uac00-\ud7a3", "а-яё"


@dataclass(frozen=True)
class Language:
    """How the text of one language is cleaned.

    Attributes:
        tag: as in manifests.
        letters: inside of a regular expression's class, lower case.
        words: its function words; empty where the script alone tells the language.
        bounds: fewest and most characters of a phrase.
        pace: characters that eSpeak speaks in a second, to favour short phrases.
        marks: statement, question and exclamation, each with {} for the words.
        spaced: whether words are separated by spaces.
    """

    tag: str
    letters: str
    words: frozenset[str] = frozenset()
    bounds: tuple[int, int] = (4, 90)
    pace: float = 14.0
    marks: tuple[str, str, str] = ("{}.", "{}?", "{}!")
    spaced: bool = True


def _latin(tag: str, more: str, words: str, **rest) -> Language:
    return Language(tag, _LATIN + more, frozenset(words.split()), **rest)


_WIDE = ("{}。", "{}？", "{}！")
LANGUAGES: dict[str, Language] = {
    row.tag: row
    for row in (
        _latin(
            "en",
            "àâäçéèêëïîôöûüñ",
            "the of and to a in is it you that for on are with as be this was have or by not but can your i we he they "
            "my what there if will from so do no all click select use",
        ),
        _latin(
            "de",
            "äöüßé",
            "der die und das in den von zu ist ein nicht sie es mit dem im sich auf eine für wird als auch wenn man ich "
            "wir ihr du er aber wie was werden einen oder des durch hier uns noch kann",
        ),
        _latin(
            "es",
            "áéíóúüñ",
            "de la que el en y los se del un las por con no una para es al lo como más pero su le si este esta puede "
            "yo me mi nos hay está son tu qué muy o",
            marks=("{}.", "¿{}?", "¡{}!"),
        ),
        _latin(
            "fr",
            "àâæçéèêëîïôœùûüÿ",
            "de la le les et des en un une du est que qui dans pour pas au par sur il ne ce vous nous je plus ou avec se "
            "sont son sa cette elle mais on votre être a y aux à",
            marks=("{}.", "{} ?", "{} !"),
        ),
        _latin(
            "it",
            "àèéìíîòóùú",
            "di il la che e in un per è non una con del si da i le al sono della come dei più nel gli ma lo alla se ha "
            "questo mi o anche su ho questa noi a",
        ),
        _latin(
            "pt",
            "áâãàçéêíóôõúü",
            "de a o que e do da em um para com não uma os no se na por mais as dos como mas ao ele das à seu sua ou ser "
            "quando está você eu isso são é nós",
        ),
        _latin(
            "nl",
            "éëïóöüáèê",
            "de het een en van in is dat op te voor met zijn niet aan er om ook als dan maar bij of uit wordt u kunt die "
            "naar we je ik deze door worden heeft hij was kan dit",
        ),
        _latin(
            "pl",
            "ąćęłńóśźż",
            "i w nie się na z do to jest że o jak po co tak za od ale czy dla tego być może już są przez jego tym lub "
            "ich tylko które a który ja mnie my jeśli",
            pace=13.0,
        ),
        _latin(
            "tr",
            "çğıöşüâîû",
            "ve bir bu için ile da de ne o olarak gibi daha çok en kadar var değil sonra her ben mi veya olan ama bunu "
            "biz bize sen",
            pace=13.0,
        ),
        _latin(
            "sv",
            "åäöé",
            "och i att det som en på är av för med den till inte om ett han de har du jag var kan vi så från eller när "
            "ska men här detta min",
        ),
        _latin(
            "cs",
            "áčďéěíňóřšťúůýž",
            "a se v na je že to s z o i ale jako za by k do pro jsem tak po jsou být jsme od co nebo jen který není si "
            "ve mi jeho už když",
            pace=13.0,
        ),
        Language("ru", CYRILLIC, bounds=(4, 90), pace=13.0),
        Language("ko", HANGUL, bounds=(3, 48), pace=5.5),
        Language("ja", HAN + KANA, bounds=(3, 36), pace=7.0, marks=_WIDE, spaced=False),
        Language("zh", HAN, bounds=(4, 28), pace=4.3, marks=_WIDE, spaced=False),
    )
}
