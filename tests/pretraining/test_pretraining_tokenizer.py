"""The tokenizer: the world's words whole, every other word somehow."""

from collections import Counter

from pretraining.prompts import PLACEHOLDER_WORDS
from pretraining.tokenizer import learn_merges, train_tokenizer
from pretraining.vocabulary import WORLD_WORDS


def test_merges_join_the_most_frequent_pair_first() -> None:
    # "ab" ends 3 words, "bc" 1: (a, b</w>) 3 times; then (b, c</w>) and (a, bc</w>)
    merges = learn_merges(Counter({"ab": 3, "abc": 1}), most=10)
    assert merges == [("a", "b</w>"), ("a", "b"), ("ab", "c</w>")]


def test_words_of_the_world_are_single_tokens() -> None:
    tokenizer = train_tokenizer(56)
    for word in (*WORLD_WORDS, *PLACEHOLDER_WORDS):
        assert len(tokenizer.tokenize(word)) == 1, word


def test_any_word_encodes_without_the_unknown_token() -> None:
    tokenizer = train_tokenizer(56)
    ids = tokenizer("Öresund qzx 日本 7!", add_special_tokens=False).input_ids
    assert tokenizer.unk_token_id not in ids
    assert len(ids) > 5


def test_prompts_are_padded_to_the_length_with_the_end_token() -> None:
    tokenizer = train_tokenizer(56)
    ids = tokenizer("a red cat", padding="max_length", truncation=True).input_ids
    assert len(ids) == 56
    assert ids[0] == tokenizer.bos_token_id
    assert ids[4:] == [tokenizer.eos_token_id] * 52  # start, three words, then ends
