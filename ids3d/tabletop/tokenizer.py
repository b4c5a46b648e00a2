"""A real CLIP tokenizer whose vocabulary is the tabletop captions' words."""

from __future__ import annotations

import string
from collections.abc import Iterable

from transformers import CLIPTokenizer

START, END = "<|startoftext|>", "<|endoftext|>"
LENGTH = 24
"""Tokens of a prompt, start and end included; the longest caption takes 20."""


def build_tokenizer(words: Iterable[str]) -> CLIPTokenizer:
    """A tokenizer that knows each of `words` as one token and spells every other word letter by letter.

    Each word is built by byte-pair merges from its last letter to its first. Each merge then has the word's end in it,
    so within a word only one merge is ever possible, and no word's merges can spoil another's.
    """
    letters = string.ascii_lowercase + string.digits + string.punctuation
    tokens = [*letters, *(f"{letter}</w>" for letter in letters)]
    merges: list[tuple[str, str]] = []
    for word in sorted(words):
        joined = f"{word[-1]}</w>"
        for letter in reversed(word[:-1]):
            if (letter, joined) not in merges:
                merges.append((letter, joined))
                tokens.append(letter + joined)
            joined = letter + joined
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys([*tokens, START, END]))}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=LENGTH)
