"""Taking the words that name a style or a medium out of a caption, and mending what is left.

"an oil painting of a boat" becomes "a boat": a caption must say what is in the picture and not how
it is painted, or the style is learnt as a property of those words.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

from nsync_pipeline.text import says_something

GONE = "\x00"  # stands where a style word was, so that only what is beside it is mended
ARTICLES = r"(?:an?|the|this|some)"
SHOWING = r"(?:of|showing|shows|depicting|depicts|portraying|portrays|featuring|features)"
PREPOSITIONS = (
    r"(?:of|in|on|at|as|by|with|from|for|like|under|over|near|beside|behind|against|and|or)"
)
AGENTS = frozenset(
    (
        "man", "men", "woman", "women", "boy", "boys", "girl", "girls", "child", "children", "kid",
        "kids", "person", "people", "he", "she", "they", "artist", "artists", "painter", "painters",
        "student", "students", "farmer", "farmers", "horse", "horses", "ox", "oxen", "donkey",
        "donkeys", "mule", "mules", "is", "are", "was", "were",
    )
)  # fmt: skip
"""Whoever draws water or a cart: after these "drawing" is what they do, not what they are on."""
OBJECT_STARTS = frozenset(("a", "an", "the", "his", "her", "its", "their"))
NOUN_FOLLOWERS = frozenset(("of", "by", "style", "like"))
LONGEST_WORD = 50
MAKING = (
    r"(?:(?:hand-)?(?:painted|drawn|illustrated|sketched|engraved|etched|designed|created|made)"
    r"|art|artwork|work|picture)"
)
MAKER = r"(?:the )?(?:(?:great |famous )?(?:artist|painter|master|illustrator) )?"
CAPITALISED = r"(?-i:[^\W\d_a-z])[\w'’.-]*"
CREDIT = (
    rf"\b{MAKING} by {MAKER}{CAPITALISED}"
    rf"(?: (?:(?:van|von|de|da|di|del|der|den|la|le|du) )*{CAPITALISED})*"
)
"""Who made it, by a name nobody told us: "painted by Claude Monet"."""
CLAUSE_START = r"(?:^|(?<=[.,;:!?(\[]))\s*"
CLAUSE_END = r"\s*(?=$|[.,;:!?)\]])"
EDGES = " \t\n.,;:-/"


def _rule(pattern: str, replacement: str) -> tuple[re.Pattern[str], str]:
    return re.compile(pattern.replace("GONE", GONE), re.IGNORECASE), replacement


LEADS = (
    r"(?:in the (?:style|manner|spirit|vein|tradition|fashion) of|(?<!\w)[àa] la"
    r"|(?:inspired|influenced) by|reminiscent of|(?:homage|tribute) to|signed(?: by)?|by|after)"
)
"""What leads to the name of whom a picture is like."""


MENDING = (
    # tags: "GONE_tree", "art_by_GONE"
    _rule(r"(?:\b(?:\w+_)?by)?_*GONE_*", GONE),
    # what drawing programs read in prompts: "(GONE:1.2)", "<lora:GONE:1>"
    _rule(r"\(\s*GONE\s*:\s*[\d.]+\s*\)|<\w+:[^<>]*GONE[^<>]*>", GONE),
    # "watercolor and ink", "oil, canvas", "sketch drawing": one gap
    _rule(r"GONE(?:[\s,/+&-]|\b(?:and|or|on)\b)+GONE", GONE),
    # "a beautiful old GONE of a boat" at the start of a clause: all of it speaks of the medium
    _rule(
        rf"({CLAUSE_START}){ARTICLES}\s+(?:(?!{ARTICLES}\b)[\w'-]+,?\s+){{0,2}}GONE\s+{SHOWING}\b",
        rf"\1{GONE}",
    ),
    # "holding a GONE of a boat": holding a boat
    _rule(rf"(?:\b{ARTICLES}\s+)?GONE\s+{SHOWING}\b", GONE),
    # "in GONE and ink": in ink
    _rule(rf"((?:^|\b{PREPOSITIONS}|\b{ARTICLES})\s*)GONE\s+(?:and|or)\b", rf"\1{GONE}"),
    # "with loose GONE" at the end of a clause
    _rule(rf"\bwith\s+[\w-]+\s+GONE{CLAUSE_END}", GONE),
    # "a boat in the GONE", "a boat on GONE": a boat
    _rule(rf"(?:\b{PREPOSITIONS}\s+)+(?:{ARTICLES}\s+)?GONE{CLAUSE_END}", GONE),
    # "a boat, a GONE": a boat; "a boat in a GONE with a frame": a boat with a frame
    _rule(rf"\b{ARTICLES}\s+GONE{CLAUSE_END}", GONE),
    _rule(rf"(?:\b{PREPOSITIONS}\s+)?\b{ARTICLES}\s+GONE(?=\s+{PREPOSITIONS}\b)", GONE),
    # "(GONE)", "a boat, GONE, at sea", "GONE: a boat"
    _rule(r"\(\s*GONE\s*\)|\[\s*GONE\s*\]|\"\s*GONE\s*\"", GONE),
    _rule(r"\s*[,;:]\s*GONE\s*(?=[.,;:!?)\]]|$)", GONE),
    _rule(r"^\s*GONE\s*[.,;:!?]", GONE),
)
AGREEMENT = re.compile(rf"\b(a)n?\s+{GONE}\s*(?=(\w))", re.IGNORECASE)


@dataclass(frozen=True)
class ScrubbedCaption:
    """A caption with no style word in it."""

    caption: str  # may be empty; it is where only punctuation was left
    removed: tuple[str, ...]  # the style words as they stood there, in the order they were found
    naming: tuple[str, ...] = ()  # those of them that name this style


def scrub(caption: str, style_words: Sequence[str], names: Sequence[str] = ()) -> ScrubbedCaption:
    """``caption`` without ``style_words`` and ``names``.

    Words and phrases are found whatever their case, at word borders, also in the plural, hyphenated
    ("oil-painting") and as "-style" or "-like". One that ends in "of" or "by" ("in the style of")
    takes the name after it along, up to punctuation or the next preposition. Articles, prepositions
    and punctuation that are left dangling where a word was taken out go too, and "a" and "an" are
    made to agree. Scrubbing a scrubbed caption changes nothing.

    A word in "-ing" that is plainly a verb stays ("a girl drawing water"): ``_is_verb``.

    ``names`` are what this style is called by: its placeholder, its own name, the artist's. With
    them goes what credits somebody ("painted by Claude Monet").
    """
    pattern = _pattern(tuple(style_words), tuple(names))
    removed: list[str] = []
    naming: list[str] = []
    text = _trimmed(caption)
    while pattern is not None and (
        found := [match for match in pattern.finditer(text) if not _is_verb(match, text, pattern)]
    ):
        removed += [match.group() for match in found]
        naming += [match.group() for match in found if match["naming"]]
        for match in reversed(found):
            text = text[: match.start()] + GONE + text[match.end() :]
        text = _trimmed(_mended(text))
    left = text if says_something(text) else ""
    return ScrubbedCaption(left, tuple(removed), tuple(naming))


def own_names(style: str, placeholder: str, style_words: Sequence[str]) -> tuple[str, ...]:
    """What a style is called by; not what is a plain word of grammar, as a style named "a" is."""
    grammar = re.compile(rf"{ARTICLES}|{PREPOSITIONS}|{SHOWING}", re.IGNORECASE)
    bare = placeholder.strip("<>") or placeholder
    names = (bare, f"<{bare}>", style, style.replace("_", " "), *style_words)
    return tuple(dict.fromkeys(name for name in names if not grammar.fullmatch(name.strip())))


def _is_verb(match: re.Match[str], text: str, style_words: re.Pattern[str]) -> bool:
    """Whether the style word found is what somebody does: "a girl drawing water".

    It is where it ends in "-ing" and stands behind one of ``AGENTS``, no "of" or "by" following; or
    behind another noun, and an object with an article follows: "a fisher painting the boat".
    """
    if not match.group().lower().endswith("ing") or " " in match.group():
        return False
    before = re.search(r"([\w'-]+) $", text[max(0, match.start() - LONGEST_WORD) : match.start()])
    after = re.match(r" ([\w'-]+)", text[match.end() :])
    if before is None:
        return False
    word = before.group(1).lower()
    following = after.group(1).lower() if after else ""
    if word in AGENTS:
        return following not in NOUN_FOLLOWERS
    of_nouns = re.fullmatch(rf"{ARTICLES}|{SHOWING}|{PREPOSITIONS}", word)
    plain = of_nouns is None and style_words.fullmatch(word) is None
    return plain and following in OBJECT_STARTS


@cache
def _pattern(style_words: tuple[str, ...], names: tuple[str, ...]) -> re.Pattern[str] | None:
    """A name may have before it what stands there in "painted by the artist Claude Monet"."""
    if not style_words and not names:
        return None
    between = rf"(?:(?!{PREPOSITIONS}\b|{ARTICLES}\b)[\w'’.-]+ ){{0,3}}"
    credit = rf"(?:(?:\b{MAKING} )?\b{LEADS} {MAKER}{between})?"
    naming = rf"{CREDIT}|{credit}(?:{_any(names, _name)})" if names else r"(?!)"
    return re.compile(
        rf"(?P<naming>{naming})|{_any(style_words) or '(?!)'}",
        re.IGNORECASE,
    )


def _any(words: tuple[str, ...], pattern: Callable[[str], str] | None = None) -> str:
    whole = sorted({" ".join(word.split()) for word in words}, key=lambda w: (-len(w), w))
    return "|".join(map(pattern or _word, whole))


def _name(name: str) -> str:
    """As ``_word``, and in tags ("sks_tree") and what is made of it ("Monet-inspired"), too."""
    if name.lower().endswith((" of", " by")):
        return _word(name)
    phrase = r"[\s_-]+".join(re.escape(part) for part in re.split(r"[\s_]+", name) if part)
    made = r"(?:[\s_-](?:style|styled|like|inspired|esque|manner|artist))?"
    return rf"(?<![^\W_])(?<!-){phrase}(?:e?s|['’]s)?{made}(?![^\W_]|-)"


def _word(word: str) -> str:
    phrase = r"[\s-]+".join(re.escape(part) for part in word.split())
    if word.lower().endswith((" of", " by")):
        name = rf"(?:\s+(?!{PREPOSITIONS}\b|{ARTICLES}\b)[\w'.-]*[\w']|\s+the\b)*"
        return rf"(?<![\w-]){phrase}(?![\w-]){name}"
    return rf"(?<![\w-]){phrase}(?:e?s|['’]s)?(?:[\s-](?:style|like))?(?![\w-])"


def _mended(text: str) -> str:
    before = None
    while text != before:
        before = text
        for pattern, replacement in MENDING:
            text = pattern.sub(replacement, text)
    text = AGREEMENT.sub(_agreeing_article, text)
    text = re.sub(rf"\s*{GONE}\s*", " ", text)
    return re.sub(r"\s+(?=[.,;:!?)\]])", "", text)


def _agreeing_article(match: re.Match[str]) -> str:
    article, following = match.groups()
    return f"{article}n " if following in "aeiouAEIOU" else f"{article} "


def _trimmed(text: str) -> str:
    return " ".join(text.split()).strip(EDGES)
