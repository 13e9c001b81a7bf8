"""Text that people gave: decoded and cleaned, or refused with the reason."""

import re
import unicodedata

from nsync_pipeline.errors import NotTextError

NOT_TEXT = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffd-\uffff]")
"""Controls that are no white space, halves of surrogate pairs, and what stands for lost bytes."""
INVISIBLE = re.compile(
    "[\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
)
"""Marks of direction and of places to break: no one sees them, and a tokenizer does."""


BYTES = re.compile("[\udc80-\udcff]+")
"""How Python keeps bytes of a name that are not UTF-8."""
ESCAPED = "backslashreplace"
JOINERS = "\u200c\u200d"
"""They make one sign of several, as letters of Persian and families of emoji."""


def decoded(content: bytes) -> str:
    """UTF-8, with or without a byte order mark, that holds nothing but text.

    Raises:
        NotTextError: it is not; the message goes on after the file's name.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise NotTextError(
            f"is not UTF-8 (byte 0x{error.object[error.start]:02x} at {error.start}): "
            "save it in the encoding UTF-8"
        ) from error
    if text.count("\x00") * 4 > len(text):
        raise NotTextError("is UTF-16 or UTF-32 without a mark: save it in the encoding UTF-8")
    return require_text(text)


def require_text(text: str) -> str:
    """The same ``text``; raises ``NotTextError`` as ``decoded`` where it holds what is no text."""
    if (found := NOT_TEXT.search(text)) is not None:
        raise NotTextError(
            f"holds U+{ord(found[0]):04X} in line {text.count(chr(10), 0, found.start()) + 1}, "
            "which is no text: take it out"
        )
    return text


def one_line(text: str) -> str:
    """``text`` in composed Unicode (NFC), without what is invisible, single-spaced, in one line.

    Raises:
        NotTextError: it holds what is no text.
    """
    return " ".join(unicodedata.normalize("NFC", INVISIBLE.sub("", require_text(text))).split())


def says_something(text: str) -> bool:
    """Whether ``text`` holds a letter, a figure or a picture sign, and not punctuation alone."""
    return any(letter.isalnum() or unicodedata.category(letter) == "So" for letter in text)


def without_controls(text: str) -> str:
    """``text`` of a program, which nobody can be asked to mend, without what is no text."""
    return NOT_TEXT.sub(" ", text)


def printable(text: str, most: int = 200) -> str:
    r"""``text`` as it can be shown in one line anywhere: ``\x1b`` for an escape, cut where long.

    What Python calls unprintable is escaped: what is ``INVISIBLE``, and a letter too that its
    Unicode does not know yet.
    """
    shown = _escaped(text, keeping="")
    return shown if len(shown) <= most else f"{shown[: most // 2]} ... {shown[-most // 3 :]}"


def printable_lines(text: str) -> str:
    """``text`` of any lines as it can be shown; blanks of all kinds and joined signs stay."""
    return text if text.isprintable() else _escaped(text, keeping=f"\n\t{JOINERS}")


def _escaped(text: str, keeping: str) -> str:
    """``text`` with escapes for what is not printable; with ``keeping``, blanks stay, too."""
    whole = BYTES.sub(
        lambda found: found[0].encode("utf-8", "surrogateescape").decode("utf-8", ESCAPED), text
    )
    return "".join(
        letter
        if letter.isprintable()
        or letter in keeping
        or (keeping and unicodedata.category(letter) == "Zs")
        else letter.encode("unicode_escape").decode("ascii")
        for letter in whole
    )
