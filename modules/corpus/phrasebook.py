"""Short everyday phrases that books lack: greetings, answers, numbers, dates, questions, exclamations.

Every list is small; templates are filled with all their words, so that a language gets several hundred phrases.
"""

import itertools

_SHORT = {
    "en": "Hi|Hello|Yes|No|Okay|Thanks|Thank you|Please|Sorry|Excuse me|Good morning|Good evening|Good night|Goodbye"
    "|Bye|See you|See you soon|Of course|Maybe|Never|Always|Really|Wait|Stop|Come in|Go on|Well done|Right|Sure|Why"
    "|Who|What|Where|When|How|I see|Not yet|Not now|Me too|Let's go|Help|Welcome|Nice|Great|Oh|Ah|Hm|Too late"
    "|Over there|Here|There|Nothing|Nobody|Everything|Be careful|Look|Listen|One moment|My name is Anna|I am fine",
    "de": "Hallo|Ja|Nein|Gut|Danke|Danke schön|Bitte|Entschuldigung|Guten Morgen|Guten Tag|Guten Abend|Gute Nacht"
    "|Tschüss|Bis bald|Natürlich|Vielleicht|Nie|Immer|Wirklich|Warte|Halt|Herein|Weiter|Sehr gut|Genau|Sicher|Warum"
    "|Wer|Was|Wo|Wann|Wie|Ach so|Noch nicht|Jetzt nicht|Ich auch|Los geht es|Hilfe|Willkommen|Schön|Toll|Oh|Ach"
    "|Zu spät|Da drüben|Hier|Dort|Nichts|Niemand|Alles|Vorsicht|Schau|Hör zu|Einen Moment|Ich heiße Anna|Mir geht es gut",
    "es": "Hola|Sí|No|Vale|Gracias|Muchas gracias|Por favor|Perdón|Disculpe|Buenos días|Buenas tardes|Buenas noches"
    "|Adiós|Hasta luego|Hasta pronto|Claro|Quizás|Nunca|Siempre|De verdad|Espera|Alto|Adelante|Sigue|Muy bien|Exacto"
    "|Seguro|Por qué|Quién|Qué|Dónde|Cuándo|Cómo|Ya veo|Todavía no|Ahora no|Yo también|Vamos|Ayuda|Bienvenido|Qué bien"
    "|Genial|Ay|Ah|Demasiado tarde|Allí|Aquí|Nada|Nadie|Todo|Cuidado|Mira|Escucha|Un momento|Me llamo Ana|Estoy bien",
    "zh": "你好|您好|是的|不是|好的|好|谢谢|谢谢你|请|对不起|不好意思|早上好|下午好|晚上好|晚安|再见|明天见|回头见|当然"
    "|也许|从不|总是|真的|等等|停|请进|继续|很好|对|没错|为什么|谁|什么|哪里|什么时候|怎么办|我知道了|还没有|现在不行"
    "|我也是|走吧|救命|欢迎|太好了|真棒|哦|啊|嗯|太晚了|在那边|这里|那里|没什么|没有人|全部|小心|看|听我说|等一下"
    "|我叫小明|我很好|没关系|不客气|加油|吃了吗|多少钱|几点了",
}
_MONTHS = {
    "en": "January February March April May June July August September October November December".split(),
    "de": "Januar Februar März April Mai Juni Juli August September Oktober November Dezember".split(),
    "es": "enero febrero marzo abril mayo junio julio agosto septiembre octubre noviembre diciembre".split(),
}
_DAYS = {
    "en": "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split(),
    "de": "Montag Dienstag Mittwoch Donnerstag Freitag Samstag Sonntag".split(),
    "es": "lunes martes miércoles jueves viernes sábado domingo".split(),
    "zh": "星期一 星期二 星期三 星期四 星期五 星期六 星期日".split(),
}
_DATE = {"en": "{month} {day}, {year}.", "de": "Der {day}. {month} {year}.", "es": "El {day} de {month} de {year}."}
_THINGS = {
    "en": "my book|the door|your brother|the station|our dog|the letter|a doctor|the kitchen|your money|the map|my phone|the window"
    "|the boss|your name|the answer|the cat|a glass of water|the car|my mother|the church",
    "de": "mein Buch|die Tür|dein Bruder|der Bahnhof|unser Hund|der Brief|ein Arzt|die Küche|dein Geld|die Karte|mein Telefon"
    "|das Fenster|der Chef|dein Name|die Antwort|die Katze|ein Glas Wasser|das Auto|meine Mutter|die Kirche",
    "es": "mi libro|la puerta|tu hermano|la estación|nuestro perro|la carta|un médico|la cocina|tu dinero|el mapa|mi teléfono"
    "|la ventana|el jefe|tu nombre|la respuesta|el gato|un vaso de agua|el coche|mi madre|la iglesia",
    "zh": "我的书|那扇门|你哥哥|火车站|我们的狗|那封信|医生|厨房|你的钱|地图|我的手机|窗户|老板|你的名字|答案|那只猫"
    "|一杯水|汽车|我妈妈|教堂|老师|学校|苹果|北京|上海|医院|银行|超市|图书馆|朋友",
}
_QUESTIONS = {
    "en": "Where is {}?|Do you see {}?|What about {}?|Is that {}?|Who has {}?|Why not {}?|Can I have {}?|Look at {}!|What happened to {}?"
    "|I am looking for {}.|Give me {}, please!",
    "de": "Wo ist {}?|Ist das {}?|Was ist mit dem hier, ist das {}?|Wem gehört das, ist es {}?|Warum nicht, es ist doch {}!"
    "|Schau, da ist {}!|Das hier ist {}.|Wie teuer ist {}?|Wann kommt {}?",
    "es": "¿Dónde está {}?|¿Es este {}?|¿Ves {}?|¿Qué pasa con {}?|¿Quién tiene {}?|¿Por qué no {}?|¡Mira {}!|Busco {}."
    "|¡Dame {}, por favor!|¿Puedo ver {}?",
    "zh": "{}在哪里？|你看见{}了吗？|那是{}吗？|谁有{}？|{}怎么样？|我在找{}。|请给我{}！|你喜欢{}吗？|这就是{}。|{}不见了！|你想要{}还是别的？",
}


def phrases(language: str) -> list[str]:
    """The phrases of `language`, in a fixed order; empty for a language without a book."""
    if language not in _SHORT:
        return []
    full, ask, shout = ("。", "？", "！") if language == "zh" else (".", "?", "!")
    found: list[str] = []
    for phrase in _SHORT[language].split("|"):
        found += [phrase + full, phrase + shout, phrase + ask, phrase]
    found += [f"{number}{full}" for number in range(101)]
    found += [f"{number}" for number in (*range(110, 1000, 37), *range(1100, 10000, 613))]
    found += [day + full for day in _DAYS[language]]
    found += [
        question.format(thing)
        for question, thing in itertools.product(_QUESTIONS[language].split("|"), _THINGS[language].split("|"))
    ]
    return list(dict.fromkeys(found + _dates(language)))


def _dates(language: str) -> list[str]:
    years = (1066, 1492, 1789, 1848, 1914, 1969, 1989, 1999, 2001, 2008, 2012, 2024)
    if language == "zh":
        return [
            f"{year}年{month}月{1 + (7 * month + year) % 28}日。"
            for year, month in itertools.product(years, range(1, 13))
        ]
    return [
        _DATE[language].format(day=1 + (7 * index + year) % 28, month=month, year=year)
        for year, (index, month) in itertools.product(years, enumerate(_MONTHS[language]))
    ]
