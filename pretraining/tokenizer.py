"""A byte-level BPE tokenizer in CLIP's form, learned from our own word lists."""

from collections import Counter
from functools import cache
from itertools import pairwise

from transformers import CLIPTokenizer

from pretraining.vocabulary import ENGLISH_WORDS, WORLD_WORDS

START, END = "<|startoftext|>", "<|endoftext|>"
WORLD_WEIGHT = 1_000  # makes every word of the world a token of its own
MAX_MERGES = 2_500
_WORD_END = "</w>"

Pair = tuple[str, str]


def train_tokenizer(length: int) -> CLIPTokenizer:
    """The tokenizer; `length` is the most tokens of a prompt, start and end included.

    Words it never saw fall back to their bytes, so that any text can be encoded.
    """
    merges = _world_merges()
    letters = _byte_letters()
    tokens = [*letters, *(letter + _WORD_END for letter in letters)]
    known = set(tokens)
    for pair in merges:
        if "".join(pair) not in known:
            known.add("".join(pair))
            tokens.append("".join(pair))
    vocabulary = {token: index for index, token in enumerate([*tokens, START, END])}
    return CLIPTokenizer(
        vocab=vocabulary,
        merges=merges,
        bos_token=START,
        eos_token=END,
        unk_token=END,
        pad_token=END,
        model_max_length=length,
    )


@cache
def _world_merges() -> list[Pair]:
    words = Counter(dict.fromkeys(ENGLISH_WORDS, 1))
    words.update(dict.fromkeys(WORLD_WORDS, WORLD_WEIGHT))
    return learn_merges(words, MAX_MERGES)


def learn_merges(words: Counter[str], most: int) -> list[Pair]:
    """Byte-pair encoding: join the most frequent neighbours, again and again.

    Ties go to the pair first in alphabetical order.
    """
    spelled = {word: (*word[:-1], word[-1] + _WORD_END) for word in sorted(words)}
    merges: list[Pair] = []
    while len(merges) < most:
        pairs: Counter[Pair] = Counter()
        for word, pieces in spelled.items():
            for pair in pairwise(pieces):
                pairs[pair] += words[word]
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        spelled = {word: _joined(pieces, best) for word, pieces in spelled.items()}
    return merges


def _joined(pieces: tuple[str, ...], pair: Pair) -> tuple[str, ...]:
    if pair[0] not in pieces:
        return pieces
    result: list[str] = []
    index = 0
    while index < len(pieces):
        if pieces[index : index + 2] == pair:
            result.append(pair[0] + pair[1])
            index += 2
        else:
            result.append(pieces[index])
            index += 1
    return tuple(result)


def _byte_letters() -> list[str]:
    """The printable letter that stands for each byte, as byte-level BPE has it since GPT-2."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {byte: chr(byte) for byte in printable}
    letters.update({byte: chr(256 + index) for index, byte in enumerate(others)})
    return [letters[byte] for byte in range(256)]
