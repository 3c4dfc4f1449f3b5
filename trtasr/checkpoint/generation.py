"""``generation_config.json`` -> `Generation`, by the rules of transformers for short audio without timestamps.

Those are in ``transformers/models/whisper/generation_whisper.py``, ``_retrieve_init_tokens`` and
``_set_max_new_tokens_and_length``. One rule differs: where neither task nor language is named and the language is
detected, the task is still written, as ``generate(task="transcribe")`` does.
"""

from collections.abc import Mapping
from typing import Any

from trtasr.checkpoint.folder import integer, section
from trtasr.errors import CheckpointError
from trtasr.text.generate import MAX_LENGTH, Generation
from trtasr.text.numbers import digit_tokens, separator_tokens

FILE = "generation_config.json"
INHERITED = ("decoder_start_token_id", "eos_token_id", "forced_decoder_ids")  # from config.json, file or not
DERIVED = (*INHERITED, "suppress_tokens", "begin_suppress_tokens", "max_length", "max_new_tokens")
BEGIN_SUPPRESS = (220, 50256)  # of transformers' WhisperConfig, where config.json has none
NO_SPEECH = ("<|nospeech|>", "<|nocaptions|>")
TASKS = ("transcribe", "translate")
NO_TIMESTAMPS = "<|notimestamps|>"
DEFAULTS: Mapping[str, Mapping[str, Any]] = {"whisper": {}, "moonshine": {"max_position_embeddings": 512}}
MAX_POSITIONS = 2**13  # of a decoder: published ones have at most 512, and rotary embeddings have no weight to count
CORRECT = f"correct {FILE}"
# Names of languages that the file may use instead of the code of Whisper's language token.
LANGUAGES = """
en english, zh chinese, de german, es spanish, ru russian, ko korean, fr french, ja japanese, pt portuguese,
tr turkish, pl polish, ca catalan, nl dutch, ar arabic, sv swedish, it italian, id indonesian, hi hindi, fi finnish,
vi vietnamese, he hebrew, uk ukrainian, el greek, ms malay, cs czech, ro romanian, da danish, hu hungarian, ta tamil,
no norwegian, th thai, ur urdu, hr croatian, bg bulgarian, lt lithuanian, la latin, mi maori, ml malayalam, cy welsh,
sk slovak, te telugu, fa persian, lv latvian, bn bengali, sr serbian, az azerbaijani, sl slovenian, kn kannada,
et estonian, mk macedonian, br breton, eu basque, is icelandic, hy armenian, ne nepali, mn mongolian, bs bosnian,
kk kazakh, sq albanian, sw swahili, gl galician, mr marathi, pa punjabi, si sinhala, km khmer, sn shona, yo yoruba,
so somali, af afrikaans, oc occitan, ka georgian, be belarusian, tg tajik, sd sindhi, gu gujarati, am amharic,
yi yiddish, lo lao, uz uzbek, fo faroese, ht haitian creole, ps pashto, tk turkmen, nn nynorsk, mt maltese,
sa sanskrit, lb luxembourgish, my myanmar, bo tibetan, tl tagalog, mg malagasy, as assamese, tt tatar, haw hawaiian,
ln lingala, ha hausa, ba bashkir, jw javanese, su sundanese, yue cantonese, my burmese, ca valencian, nl flemish,
ht haitian, lb letzeburgesch, ps pushto, pa panjabi, ro moldavian, ro moldovan, si sinhalese, es castilian,
zh mandarin
"""
CODES = {name: code for code, name in (entry.split(maxsplit=1) for entry in LANGUAGES.strip().split(","))}

Settings = Mapping[str, Any]
Table = dict[str, int]


def read_generation(
    family: str, config: Settings, file: Settings | None, vocabulary: tuple[str, ...], rate: float = 0.0
) -> Generation:
    """How a model generates.

    Args:
        family: ``whisper`` or ``moonshine``.
        config: ``config.json``.
        file: ``generation_config.json``; None: derived from ``config.json``, as transformers does.
        vocabulary: token strings in id order.
        rate: tokens per second of audio at most; 0: no such limit.

    Raises:
        CheckpointError: naming the key.
    """
    keys = DERIVED if file is None else INHERITED
    given = {key: config[key] for key in keys if config.get(key) is not None}
    settings = given | {key: value for key, value in (file or {}).items() if value is not None}
    size = len(vocabulary)
    if file is None and family == "whisper" and "begin_suppress_tokens" not in settings:
        settings["begin_suppress_tokens"] = [token for token in BEGIN_SUPPRESS if token < size]
    start = integer(settings, "decoder_start_token_id", FILE, (0, size - 1))
    prompt, languages = whisper_prompt(start, settings, vocabulary) if family == "whisper" else ((start,), ())
    end = token_ids(settings, "eos_token_id", size)
    if not end:
        raise CheckpointError(f"{FILE}: no eos_token_id", CORRECT)
    return Generation(
        start=start,
        prompt=prompt,
        end=end,
        suppress=token_ids(settings, "suppress_tokens", size),
        begin_suppress=token_ids(settings, "begin_suppress_tokens", size),
        max_length=longest(config, settings, len(prompt) + bool(languages), family),
        no_speech=next((vocabulary.index(name) for name in NO_SPEECH if name in vocabulary), None),
        languages=languages,
        tokens_per_second=rate,
        digits=digit_tokens(vocabulary),
        separators=separator_tokens(vocabulary),
    )


def token_ids(settings: Settings, key: str, size: int) -> tuple[int, ...]:
    """A token, or a list of tokens; nothing for null, and -1 in a list stands for nothing too.

    Raises:
        CheckpointError: something else, or a token that the vocabulary does not have.
    """
    value = settings.get(key)
    listed = value if isinstance(value, list) else [] if value is None else [value]
    for token in listed:
        if type(token) is not int or not -1 <= token < size:
            raise CheckpointError(f"{FILE}: {key} has {token!r:.80}", f"use tokens from 0 to {size - 1}")
    return tuple(sorted({token for token in listed if token >= 0}))


def whisper_prompt(
    start: int, settings: Settings, vocabulary: tuple[str, ...]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The prompt, and the languages to detect among (then the prompt has no language).

    Raises:
        CheckpointError: an unknown language or task, or tokens that the vocabulary does not have.
    """
    size = len(vocabulary)
    wanted = settings.get("language") is not None or settings.get("task") is not None
    if settings.get("is_multilingual") is False:
        check_english(settings)
        languages, tasks, wanted = Table(), Table(), False
    else:
        languages, tasks = token_tables(settings, vocabulary, wanted)
    forced = () if wanted else forced_tokens(settings, size)
    tokens: list[int | None] = [start, *forced] if forced else [start, chosen_language(settings, languages)]
    if not forced and tasks:
        tokens.append(chosen_task(settings, tasks))
    last = no_timestamps(settings, vocabulary, wanted)
    tokens += [last] if last is not None and tokens[-1] != last else []
    detected = tuple(sorted(set(languages.values()))) if tokens[1:2] == [None] else ()
    return tuple(token for token in tokens if token is not None), detected


def check_english(settings: Settings) -> None:
    """Refuse another language or task of a model that has neither.

    Raises:
        CheckpointError: naming the key.
    """
    language, task = settings.get("language"), settings.get("task")
    if language is not None and (not isinstance(language, str) or language_token(language) != "<|en|>"):
        raise CheckpointError(f"{FILE}: language {language!r:.80} of a model with is_multilingual = false", CORRECT)
    if task not in (None, "transcribe"):
        raise CheckpointError(f"{FILE}: task {task!r:.80} of a model with is_multilingual = false", CORRECT)


def token_tables(settings: Settings, vocabulary: tuple[str, ...], wanted: bool) -> tuple[Table, Table]:
    """Tokens of languages (``<|hi|>``) and of tasks (``transcribe``).

    Older files have neither table; a language or a task that is named is looked up in the vocabulary then.

    Args:
        settings: of generation.
        vocabulary: token strings in id order.
        wanted: whether a language or a task is named.

    Raises:
        CheckpointError: a table of another form, or a name that is found nowhere.
    """
    size = len(vocabulary)
    languages, tasks = token_table(settings, "lang_to_id", size), token_table(settings, "task_to_id", size)
    if not wanted:
        return languages, tasks
    places = {piece: token for token, piece in enumerate(vocabulary)}
    known = {f"<|{code}|>" for code in CODES.values()} | {spoken(settings)}
    languages = languages or {piece: places[piece] for piece in sorted(known & places.keys())}
    tasks = tasks or {task: places[f"<|{task}|>"] for task in TASKS if f"<|{task}|>" in places}
    if not languages or (settings.get("task") is not None and not tasks):
        named = {key: settings[key] for key in ("language", "task") if key in settings}
        raise CheckpointError(
            f"{FILE}: {named!r:.160}, but the vocabulary has no token for it",
            "leave it out, or use a multilingual model",
        )
    return languages, tasks


def spoken(settings: Settings) -> str:
    """Token of the language that is named; empty where none is."""
    language = settings.get("language")
    return language_token(language) if isinstance(language, str) else ""


def language_token(language: str) -> str:
    """Spelling of the token of a language given as token, code or English name: ``english`` -> ``<|en|>``."""
    plain = language.lower()
    if plain.startswith("<|"):
        return plain
    return f"<|{CODES.get(plain, plain)}|>"


def no_timestamps(settings: Settings, vocabulary: tuple[str, ...], wanted: bool) -> int | None:
    """The token that asks for text alone; where a language or a task is named, the vocabulary's if the file has none.

    Raises:
        CheckpointError: one that the vocabulary does not have.
    """
    if "no_timestamps_token_id" in settings:
        return integer(settings, "no_timestamps_token_id", FILE, (0, len(vocabulary) - 1))
    return vocabulary.index(NO_TIMESTAMPS) if wanted and NO_TIMESTAMPS in vocabulary else None


def token_table(settings: Settings, key: str, size: int) -> Table:
    """A mapping of names to tokens.

    Raises:
        CheckpointError: something else, or a token that the vocabulary does not have.
    """
    table = section(settings, key, FILE)
    return {name: integer(table, name, f"{FILE}: {key}", (0, size - 1)) for name in table}


def forced_tokens(settings: Settings, size: int) -> tuple[int | None, ...]:
    """Tokens behind the start that older files force: ``[[1, language], [2, task], [3, no timestamps]]``.

    Raises:
        CheckpointError: another form.
    """
    pairs = settings.get("forced_decoder_ids") or []
    usable = (
        isinstance(pairs, list)
        and len(pairs) < 10
        and all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs)
    )
    if not usable or [place for place, _ in pairs] != list(range(1, len(pairs) + 1)):
        raise CheckpointError(f"{FILE}: forced_decoder_ids = {pairs!r:.80}", "use pairs of 1, 2, 3 ... and a token")
    for place, token in pairs:
        if not (token is None and place == 1) and (type(token) is not int or not 0 <= token < size):
            raise CheckpointError(f"{FILE}: forced_decoder_ids has {token!r:.80}", f"use tokens from 0 to {size - 1}")
    return tuple(token for _, token in pairs)


def chosen_language(settings: Settings, languages: Mapping[str, int]) -> int | None:
    """Token of the language that is named; None: none is.

    Raises:
        CheckpointError: one that this model does not have.
    """
    language = settings.get("language") if languages else None
    if language is None:
        return None
    if spoken(settings) not in languages:
        raise CheckpointError(
            f"{FILE}: language {language!r:.80} is not in lang_to_id and not in the vocabulary",
            f"use one of {', '.join(languages):.200}",
        )
    return languages[spoken(settings)]


def chosen_task(settings: Settings, tasks: Mapping[str, int]) -> int:
    """Token of the task that is named, or of transcription.

    Raises:
        CheckpointError: one that this model does not have.
    """
    task = settings.get("task", "transcribe")
    if not isinstance(task, str) or task not in tasks:
        raise CheckpointError(f"{FILE}: task {task!r:.80} is not in task_to_id", f"use one of {', '.join(tasks):.200}")
    return tasks[task]


def longest(config: Settings, settings: Settings, prompt: int, family: str) -> int:
    """Tokens at most, the prompt included: never more than the decoder has positions.

    Whisper's ``max_length`` does not count the prompt; ``max_new_tokens`` wins over it. Where neither is named, all
    positions may be used (transformers would stop after 20 tokens).

    Raises:
        CheckpointError: out of bounds, or no room behind the prompt.
    """
    key = "max_target_positions" if family == "whisper" else "max_position_embeddings"
    total = places = integer({**DEFAULTS[family], **config}, key, "config.json", (1, MAX_POSITIONS))
    if "max_new_tokens" in settings:
        total = prompt + integer(settings, "max_new_tokens", FILE, (1, MAX_LENGTH))
    elif "max_length" in settings:
        ahead = min(places // 2 - 1, prompt) if family == "whisper" else 0
        total = integer(settings, "max_length", FILE, (1, MAX_LENGTH)) + ahead
    total = min(total, places)
    if total <= prompt:
        raise CheckpointError(f"{FILE}: a prompt of {prompt} tokens leaves no room in {total}", CORRECT)
    return total
