"""Textual inversion on a family's text encoders: vectors added fresh, saved, loaded, taken off.

Each CLIP text encoder gets ``k`` vectors of its own, one for each token that the style's word
stands for in a prompt. Source: arXiv 2208.01618.
"""

import copy
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nsync_pipeline.adaptation.config import TextualInversionSettings
from nsync_pipeline.adaptation.lora import lora_dtype
from nsync_pipeline.adaptation.lora_file import OWN_METADATA
from nsync_pipeline.adaptation.safetensors_file import (
    not_ours,
    read_metadata,
    read_safetensors,
    write_safetensors,
)
from nsync_pipeline.adaptation.trained_weights import TrainedWeights, clip_encoders_of
from nsync_pipeline.errors import BaseModelError, TrainingError
from nsync_pipeline.families.clip_tokenizers import placeholder_tokens
from nsync_pipeline.families.family import Family
from nsync_pipeline.families.noise_schedules import draw_as_trained
from nsync_pipeline.files import parse_json
from nsync_pipeline.seeding import torch_stream
from nsync_pipeline.workspace import trained_files

PLACEHOLDER_METADATA = "placeholder"
"""Where the file of token vectors keeps their word."""


def style_word(placeholder: str, textual_inversion: TextualInversionSettings | None) -> str:
    """What prompts of a variant with these settings call the style."""
    if textual_inversion is None:
        return placeholder
    word = re.sub(r"[^\w]+", "-", placeholder.lower()).strip("-")
    return f"<{word or 'style'}>"


def prompt_tokens(
    family: Family, prompt: str, word: str, textual_inversion: TextualInversionSettings | None
) -> int:
    """How many tokens ``prompt`` has for a variant, start and end not counted.

    It may be asked before the variant's own tokens are added: each ``word`` takes one a vector.
    """
    if textual_inversion is None:
        return family.prompt_tokens(prompt)
    others = family.prompt_tokens(prompt.replace(word, " "))
    return others + prompt.count(word) * textual_inversion.vectors


def trained_style_word(place: Path, placeholder: str) -> str:
    """The same, of what was trained: as its file of token vectors says, where there is one.

    ``place`` is a model's folder, or one of its files.

    Raises:
        MissingArtifactError: a file is damaged.
    """
    words = (read_metadata(file).get(PLACEHOLDER_METADATA) for file in trained_files(place))
    return next((word for word in words if word is not None), placeholder)


class TokenVectors(nn.Module):
    """Stands in for the base's ``table``; the added tokens' numbers go from ``first`` on.

    The vectors begin at ``start`` (k, D). ``tokenizer_before`` are the attributes of the tokenizer
    from before the tokens were added.
    """

    def __init__(
        self, table: nn.Embedding, first: int, start: Tensor, tokenizer_before: dict[str, Any]
    ) -> None:
        super().__init__()
        self.tokenizer_before = tokenizer_before
        self.table = table
        self.first = first
        self.vectors = nn.Parameter(start)

    @property
    def weight(self) -> Tensor:
        """The base's table: models ask it for their number type and device."""
        return self.table.weight

    def forward(self, ids: Tensor) -> Tensor:
        return embedded(self.table, self.first, self.vectors.unsqueeze(0), ids)

    def branch_weights(self) -> tuple[nn.Parameter, ...]:
        return (self.vectors,)

    def branch_forward(self, copies: Sequence[Tensor]) -> Callable[[Tensor], Tensor]:
        """The forward with copies (n, k, D) of the vectors, for n branches stacked in a batch."""
        return partial(embedded, self.table, self.first, copies[0])


def embedded(table: nn.Embedding, first: int, vectors: Tensor, ids: Tensor) -> Tensor:
    """``ids`` (n * B, L) to (n * B, L, D); branch i's rows take their vectors from ``vectors[i]``.

    The vectors are put in by a product with 0 and 1: its gradient needs no scattered additions,
    whose order is not fixed on a GPU.
    """
    branches, count, _ = vectors.shape
    added = torch.arange(first, first + count, device=ids.device)
    chosen = ids.unsqueeze(-1) == added  # (n * B, L, k)
    is_added = chosen.any(dim=-1, keepdim=True)
    rows: Tensor = table(ids.masked_fill(is_added.squeeze(-1), 0))
    picked = torch.bmm(chosen.reshape(branches, -1, count).to(vectors.dtype), vectors)
    return torch.where(is_added, picked.view(rows.shape).to(rows.dtype), rows)


NO_TOKENS_OF_CLIP = frozenset({"flux-1-dev"})
"""Architectures that are told CLIP's pooled output alone."""

TWO_ENCODERS = ("clip_l", "clip_g")
"""The keys of a file for two text encoders, as Stable Diffusion XL's embeddings have them."""


@dataclass(frozen=True)
class _Encoder:
    component: str
    text_encoder: Any
    tokenizer: Any

    @property
    def table(self) -> Any:
        """Its token table, or what stands in for it."""
        return self.text_encoder.get_input_embeddings()


def add_token_vectors(
    family: Family,
    settings: TextualInversionSettings,
    word: str,
    initializer: str,
    generator: torch.Generator,
) -> TrainedWeights:
    """Add ``word`` to the family's tokenizers, and trainable vectors for it to its text encoders.

    With as many vectors as ``initializer`` has tokens, or more, each of its tokens starts one;
    with fewer, the first starts from the mean of them all. Vectors beyond those start from the mean
    and a little noise, from a stream of its own under the generator's seed.

    Raises:
        TrainingError: the family has no CLIP text encoder, knows the word already, or does not know
            the initializer.
    """
    encoders = _encoders(family)
    if not encoders or family.architecture in NO_TOKENS_OF_CLIP:
        raise TrainingError(
            f"training.textual_inversion: {family.name} has no CLIP text encoder whose tokens are "
            "read: set it to null"
        )
    tokens = set(placeholder_tokens(word, settings.vectors))
    for encoder in encoders:
        known = tokens & encoder.tokenizer.get_vocab().keys()
        if known:
            raise TrainingError(
                f"training.textual_inversion: {family.name} knows the token {min(known)!r} "
                "already: choose another placeholder for the style"
            )
    starts = []
    for encoder in encoders:
        noise = torch_stream(generator.initial_seed(), "token_vectors", encoder.component)
        starts.append(_start(family, encoder, settings, initializer, noise))
    for encoder, start in zip(encoders, starts, strict=True):
        encoder.text_encoder.to(family.device)  # it may rest elsewhere, as long as it is frozen
        _put_on(encoder, word, start.to(lora_dtype(family)))
    return token_vectors(family)


def save_token_vectors(family: Family, path: Path, word: str, origin: Mapping[str, str]) -> None:
    """Save the vectors to ``path``, loadable here and by diffusers' ``load_textual_inversion``.

    One text encoder: the word is the key of the vectors, (k, D). Two: ``clip_l`` and ``clip_g``,
    which are given to ``load_textual_inversion`` one by one. The same vectors and origin always
    give the same bytes.
    """
    found = token_vectors(family).weights
    keys = (word,) if len(found) == 1 else TWO_ENCODERS
    tensors = {key: w.detach().float().cpu() for key, w in zip(keys, found, strict=True)}
    metadata = {
        "format": "pt",
        PLACEHOLDER_METADATA: word,
        OWN_METADATA: json.dumps(dict(origin), sort_keys=True),
    }
    write_safetensors(path, tensors, metadata)


def load_token_vectors(family: Family, path: Path) -> None:
    """Put the saved vectors at ``path``, frozen, on the family's text encoders.

    Raises:
        BaseModelError: the family holds token vectors already, or these do not fit it.
        MissingArtifactError: there is no such file, or this pipeline did not save it.
    """
    file = read_safetensors(path)
    try:
        word = file.metadata[PLACEHOLDER_METADATA]
        origin = parse_json(file.metadata[OWN_METADATA])
    except (KeyError, ValueError) as error:
        raise not_ours(path, error) from error
    encoders = _encoders(family)
    if has_token_vectors(family):
        raise BaseModelError(f"{family.name} holds token vectors already: take those off first")
    keys = (word,) if len(encoders) == 1 else TWO_ENCODERS
    found = {key: tuple(tensor.shape[1:]) for key, tensor in file.tensors.items()}
    widths = {
        key: (encoder.table.weight.shape[1],) for key, encoder in zip(keys, encoders, strict=False)
    }
    if found != widths or any(word in encoder.tokenizer.get_vocab() for encoder in encoders):
        raise BaseModelError(
            f"{path} does not fit {family.name} ({family.revision}): it was trained on "
            f"{origin.get('base_model')} ({origin.get('base_revision')})"
        )
    for key, encoder in zip(keys, encoders, strict=True):
        _put_on(encoder, word, file.tensors[key].to(lora_dtype(family)))
        encoder.table.vectors.requires_grad_(False)
    draw_as_trained(family, origin)


def remove_token_vectors(family: Family) -> None:
    """Take the vectors and their tokens off; nothing happens where there are none."""
    for encoder in _encoders(family):
        held = encoder.table
        if isinstance(held, TokenVectors):
            encoder.text_encoder.set_input_embeddings(held.table)
            # Tokenizers cannot take tokens out: give this one back what it was.
            vars(encoder.tokenizer).clear()
            vars(encoder.tokenizer).update(held.tokenizer_before)


@contextmanager
def without_token_vectors(family: Family) -> Iterator[None]:
    """Take the vectors and their tokens off for a while; nothing happens where there are none."""
    held = [
        (encoder, encoder.table, dict(vars(encoder.tokenizer)))
        for encoder in _encoders(family)
        if isinstance(encoder.table, TokenVectors)
    ]
    remove_token_vectors(family)
    try:
        yield
    finally:
        for encoder, table, tokenizer in held:
            encoder.text_encoder.set_input_embeddings(table)
            vars(encoder.tokenizer).clear()
            vars(encoder.tokenizer).update(tokenizer)


def has_token_vectors(family: Family) -> bool:
    return any(isinstance(encoder.table, TokenVectors) for encoder in _encoders(family))


def token_vectors(family: Family) -> TrainedWeights:
    """The vectors that the family's text encoders hold."""
    return TrainedWeights.of(
        (f"{encoder.component}.token_vectors", encoder.table.vectors, "embedding")
        for encoder in _encoders(family)
        if isinstance(encoder.table, TokenVectors)
    )


def _encoders(family: Family) -> tuple[_Encoder, ...]:
    encoders = zip(clip_encoders_of(family), family.tokenizers, strict=False)
    return tuple(_Encoder(one.component, one.model, tokenizer) for one, tokenizer in encoders)


def _start(
    family: Family,
    encoder: _Encoder,
    settings: TextualInversionSettings,
    initializer: str,
    noise: torch.Generator,
) -> Tensor:
    """What the vectors start from, (k, D) float32."""
    ids = encoder.tokenizer(initializer, add_special_tokens=False).input_ids
    if not ids or encoder.tokenizer.unk_token_id in ids:
        raise TrainingError(
            f"training.textual_inversion.initializer: {family.name} has no token for "
            f"{initializer!r}: choose a plain word, such as painting"
        )
    table: Tensor = encoder.table.weight
    own = table[torch.tensor(ids, device=table.device)].detach().float()
    mean = own.mean(dim=0, keepdim=True)
    first = own if len(ids) <= settings.vectors else mean
    further = settings.vectors - len(first)
    drawn = torch.randn(further, own.shape[1], generator=noise).to(own.device)
    size = mean.square().mean().sqrt() * settings.noise
    return torch.cat([first, mean + size * drawn])


def _put_on(encoder: _Encoder, word: str, vectors: Tensor) -> None:
    tokenizer, table = encoder.tokenizer, encoder.table
    before = vars(copy.deepcopy(tokenizer))
    first = len(tokenizer)
    tokenizer.add_tokens(list(placeholder_tokens(word, len(vectors))))
    held = TokenVectors(table, first, vectors.to(table.weight.device), before)
    encoder.text_encoder.set_input_embeddings(held)
