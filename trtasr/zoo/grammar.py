"""The closed vocabulary of the bundled checkpoint and the sampler of its sentences.

Sentences are numbers, digit strings, dates, times and short commands, spelled as an English speaker says them, in lower
case, with no characters but letters, spaces and apostrophes.
"""

import random
from collections.abc import Callable, Sequence

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TEENS = ("ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen")
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
ORDINALS = (
    "first",
    "second",
    "third",
    "fourth",
    "fifth",
    "sixth",
    "seventh",
    "eighth",
    "ninth",
    "tenth",
    "eleventh",
    "twelfth",
    "thirteenth",
    "fourteenth",
    "fifteenth",
    "sixteenth",
    "seventeenth",
    "eighteenth",
    "nineteenth",
    "twentieth",
)
MONTHS = (
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
)
WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
DAY_PARTS = ("in the morning", "in the afternoon", "in the evening", "at night")
DAYS = ("today", "tomorrow", "tonight", "next week", "next month", "next year", "last week", "last year")
UNITS = ("seconds", "minutes", "hours", "days", "weeks", "degrees", "percent")
ROOMS = ("kitchen", "bedroom", "bathroom", "garage", "garden", "office", "hall")
DEVICES = ("light", "lamp", "fan", "heater", "radio", "television", "oven", "camera")
OPENINGS = ("door", "window", "gate", "curtain")
PEOPLE = ("mother", "father", "anna", "peter", "maria", "david", "robert", "the doctor")
CITIES = ("london", "paris", "berlin", "rome", "madrid", "vienna", "dublin")
GOODS = ("milk", "bread", "coffee", "water", "sugar", "butter", "apples", "rice")
DIRECTIONS = ("north", "south", "east", "west", "left", "right")
MEDIA = ("song", "album", "track", "message", "video", "book")
FIXED = (
    "yes",
    "no",
    "stop",
    "cancel",
    "repeat that please",
    "help",
    "thank you",
    "go back",
    "what time is it",
    "what is the weather in",
    "good morning",
    "good night",
    "never mind",
    "volume up",
    "volume down",
    "mute",
    "louder please",
    "quieter please",
    "start again",
    "take a picture",
    "show me the news",
    "wake up",
    "show the calendar",
    "lock all doors",
    "where is my phone",
    "read my list",
)

Choice = random.Random


def below_hundred(value: int) -> list[str]:
    """Words of 0..99."""
    if value < 10:
        return [DIGITS[value]]
    if value < 20:
        return [TEENS[value - 10]]
    tens = [TENS[value // 10 - 2]]
    return tens + ([DIGITS[value % 10]] if value % 10 else [])


def cardinal(value: int) -> list[str]:
    """Words of 0..9999, British style: ``two thousand three hundred and five``."""
    thousands, rest = divmod(value, 1000)
    hundreds, low = divmod(rest, 100)
    words = [DIGITS[thousands], "thousand"] if thousands else []
    words += [DIGITS[hundreds], "hundred"] if hundreds else []
    if low or not words:
        words += (["and"] if words else []) + below_hundred(low)
    return words


def ordinal(value: int) -> list[str]:
    """Words of the 1st..31st."""
    if value <= 20:
        return [ORDINALS[value - 1]]
    if value == 30:
        return ["thirtieth"]
    return [TENS[value // 10 - 2], ORDINALS[value % 10 - 1]]


def digit_string(rng: Choice) -> list[str]:
    """Three to eight digits, each said alone."""
    return rng.choices(DIGITS, k=rng.randint(3, 8))


def number(rng: Choice) -> list[str]:
    """A cardinal, sometimes with a unit, a decimal or a minus sign."""
    words = cardinal(int(10 ** rng.uniform(0, 4)) - 1)
    form = rng.random()
    if form < 0.2:
        return [*words, rng.choice(UNITS)]
    if form < 0.35:
        return [*words, "point", rng.choice(DIGITS), rng.choice(DIGITS)]
    return ["minus", *words] if form < 0.42 else words


def clock(rng: Choice) -> list[str]:
    """A time of day."""
    hour = below_hundred(rng.randint(1, 12))
    form = rng.randrange(5)
    if form == 0:
        return [*hour, "o'clock"]
    if form == 1:
        return [rng.choice(("half", "quarter", "ten", "twenty", "five")), "past", *hour]
    if form == 2:
        return [rng.choice(("quarter", "ten", "twenty", "five")), "to", *hour]
    if form == 3:
        return [rng.choice(("noon", "midnight"))]
    return below_hundred(rng.randint(1, 23)) + below_hundred(rng.randint(10, 59))


def time(rng: Choice) -> list[str]:
    """A time of day, sometimes with the part of the day."""
    start = ["at"] if rng.random() < 0.4 else []
    hour = clock(rng)
    return start + hour + (words_of(rng, DAY_PARTS) if rng.random() < 0.3 else [])


def date(rng: Choice) -> list[str]:
    """A date, sometimes with the weekday or the year."""
    day, month = ordinal(rng.randint(1, 31)), [rng.choice(MONTHS)]
    words = ["the", *day, "of", *month] if rng.random() < 0.5 else month + day
    if rng.random() < 0.4:
        words = [rng.choice(WEEKDAYS), *words]
    if rng.random() < 0.35:
        words += year(rng)
    return words


def year(rng: Choice) -> list[str]:
    """1910..1999 or 2000..2040."""
    if rng.random() < 0.5:
        return ["nineteen", *below_hundred(rng.randint(10, 99))]
    return cardinal(rng.randint(2000, 2040))


def when(rng: Choice) -> list[str]:
    """A day or a time, as the end of a command."""
    form = rng.randrange(3)
    if form == 0:
        return words_of(rng, DAYS)
    return ["on", rng.choice(WEEKDAYS)] if form == 1 else ["at", *clock(rng)]


def switch(rng: Choice) -> list[str]:
    """Switch a device, open or lock something, or set a value."""
    room = [rng.choice(ROOMS)] if rng.random() < 0.7 else []
    state = rng.choice(("on", "off"))
    form = rng.randrange(5)
    if form == 0:
        return [rng.choice(("turn", "switch")), state, "the", *room, rng.choice(DEVICES)]
    if form == 1:
        return [rng.choice(("turn", "switch")), "the", *room, rng.choice(DEVICES), state]
    if form == 2:
        return [rng.choice(("open", "close", "lock", "unlock")), "the", *room, rng.choice(OPENINGS)]
    if form == 3:
        return ["set", "the", "temperature", "to", *below_hundred(rng.randint(10, 40)), "degrees"]
    return [rng.choice(("raise", "lower", "set")), "the", "volume", "to", *below_hundred(rng.randint(0, 99)), "percent"]


def remind(rng: Choice) -> list[str]:
    """Alarms, timers, calls, lists and tickets."""
    form = rng.randrange(6)
    if form == 0:
        return ["set", "an", "alarm", "for", *clock(rng), *(words_of(rng, DAY_PARTS) if rng.random() < 0.4 else [])]
    if form == 1:
        return ["set", "a", "timer", "for", *below_hundred(rng.randint(2, 90)), rng.choice(UNITS[:3])]
    if form == 2:
        return [rng.choice(("call", "remind")), *words_of(rng, PEOPLE), *when(rng)]
    if form == 3:
        verb, joint = rng.choice((("add", "to"), ("remove", "from")))
        return [verb, *below_hundred(rng.randint(2, 20)), rng.choice(GOODS), joint, "my", "list"]
    if form == 4:
        return ["book", "a", rng.choice(("train", "flight", "hotel", "table")), "in", rng.choice(CITIES), *when(rng)]
    return ["buy", rng.choice(GOODS), "and", rng.choice(GOODS), *when(rng)]


def ask(rng: Choice) -> list[str]:
    """Media, directions and fixed phrases."""
    form = rng.randrange(4)
    if form == 0:
        order = rng.choice(("play", "pause", "skip", "send", "delete", "read"))
        return [order, "the", rng.choice(("next", "last", *ORDINALS[:5])), rng.choice(MEDIA)]
    if form == 1:
        unit = rng.choice(("metres", "kilometres", "steps"))
        return ["go", rng.choice(DIRECTIONS), "for", *below_hundred(rng.randint(2, 99)), unit]
    phrase = rng.choice(FIXED).split()
    return [*phrase, rng.choice(CITIES)] if phrase[-1] == "in" else phrase


FAMILIES: tuple[tuple[Callable[[Choice], list[str]], int], ...] = (
    (digit_string, 20),
    (number, 15),
    (time, 13),
    (date, 17),
    (switch, 14),
    (remind, 14),
    (ask, 7),
)


def sample(rng: random.Random) -> str:
    """One sentence of the grammar."""
    makers, weights = zip(*FAMILIES, strict=True)
    maker: Callable[[Choice], list[str]] = rng.choices(makers, weights)[0]
    return " ".join(maker(rng))


def vocabulary(sentences: int = 20_000) -> set[str]:
    """Every word the grammar can say: the words of its tables and of enough sampled sentences to reach the rest."""
    rng = random.Random(0)  # noqa: S311
    tables = (
        DIGITS,
        TEENS,
        TENS,
        ORDINALS,
        MONTHS,
        WEEKDAYS,
        DAY_PARTS,
        DAYS,
        UNITS,
        ROOMS,
        DEVICES,
        OPENINGS,
        PEOPLE,
        CITIES,
        GOODS,
        DIRECTIONS,
        MEDIA,
        FIXED,
    )
    words = {word for table in tables for entry in table for word in entry.split()}
    return words | {word for _ in range(sentences) for word in sample(rng).split()}


def words_of(rng: Choice, phrases: Sequence[str]) -> list[str]:
    """The words of a phrase chosen at random."""
    return rng.choice(phrases).split()
