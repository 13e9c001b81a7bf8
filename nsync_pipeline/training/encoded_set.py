"""The training pictures and prompts as the denoiser takes them: encoded once, read as needed."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate, chain
from pathlib import Path

import diffusers
import numpy as np
import torch
from torch import Tensor

from nsync_pipeline.families.family import Family, PromptEmbeds
from nsync_pipeline.pictures.pixels import Size, geometry_of
from nsync_pipeline.training.tensor_store import TensorRows, TensorStore, digest_of

MIRRORED = " mirrored"  # in the key of what is encoded of a mirror image


@dataclass(frozen=True)
class StoredPicture:
    """A picture's file, and what its manifest says of it."""

    path: Path
    sha256: str
    width: int  # pixels
    height: int  # pixels


@dataclass(frozen=True)
class Example:
    """One picture, what is said of it, and its negatives."""

    id: str
    picture: StoredPicture
    prompt: str  # as it is drawn and measured
    negatives: tuple[StoredPicture, ...] = ()
    negative_prompt: str | None = None  # of the negatives; None: `prompt`
    wordings: tuple[str, ...] = ()  # prompts it is trained with, one a triplet; none: `prompt`
    negative_wordings: tuple[str, ...] = ()  # of the negatives, one for each of `wordings`


@dataclass(frozen=True)
class StylePrompts:
    """What prompts are without their content: the style phrase alone."""

    positive: str = ""
    negative: str = ""


@dataclass(frozen=True)
class EncodedPrompts:
    """Prompts by their text."""

    row_of: dict[str, int]
    tokens: TensorRows  # (L, D) each, as long as it is
    pooled: TensorRows | None  # (P,) each

    def embeds(self, texts: Sequence[str]) -> PromptEmbeds:
        rows = [self.row_of[text] for text in texts]
        pooled = None if self.pooled is None else self.pooled.stacked(rows)
        return PromptEmbeds.of([self.tokens[row] for row in rows], pooled)


@dataclass(frozen=True)
class EncodedSet:
    """Examples, on the CPU: latents and prompts are read when they are asked for."""

    ids: tuple[str, ...]
    latents: TensorRows  # N of (C, h, w), of the pictures
    negative_latents: TensorRows  # M; those of one picture are together
    negative_counts: tuple[int, ...]  # a picture: they sum to M
    negative_starts: tuple[int, ...]  # a picture: where its negatives begin
    geometry: Tensor  # (N, 6) int64, of the pictures (see `Family.predict`)
    negative_geometry: Tensor  # (M, 6) int64
    prompts: tuple[str, ...]  # N
    wordings: tuple[tuple[str, ...], ...]  # N, of which a triplet has one
    negative_wordings: tuple[tuple[str, ...], ...]  # N, as many each, of the picture's negatives
    style_prompts: StylePrompts
    encoded_prompts: EncodedPrompts  # of every prompt that a batch may have
    mirrored: "EncodedSet | None" = None  # the same of all pictures' mirror images, where asked for

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Of each picture's latent; its negatives have the same."""
        return tuple(self.latents.shape(place) for place in range(len(self.latents)))

    def of_negatives(self) -> "EncodedSet":
        """The negatives as pictures to learn, each under the prompts of negatives."""
        owners = [p for p, count in enumerate(self.negative_counts) for _ in range(count)]
        numbers = (k for count in self.negative_counts for k in range(count))
        wordings = tuple(self.negative_wordings[owner] for owner in owners)
        none, phrase = (0,) * len(owners), self.style_prompts.negative
        return EncodedSet(
            ids=tuple(f"{self.ids[p]}_{k}" for p, k in zip(owners, numbers, strict=True)),
            latents=self.negative_latents,
            negative_latents=self.negative_latents.part(0, 0),
            negative_counts=none,
            negative_starts=none,
            geometry=self.negative_geometry,
            negative_geometry=self.negative_geometry[:0],
            prompts=tuple(first for first, *_ in wordings),
            wordings=wordings,
            negative_wordings=wordings,
            style_prompts=StylePrompts(phrase, phrase),
            encoded_prompts=self.encoded_prompts,
            mirrored=None if self.mirrored is None else self.mirrored.of_negatives(),
        )

    def negative_row(self, picture: int, negative: int) -> int:
        """Where the ``negative``-th negative of ``picture`` is in ``negative_latents``."""
        return self.negative_starts[picture] + negative


def encode_examples(
    family: Family,
    examples: Sequence[Example],
    load_pixels: Callable[..., Tensor],
    on_picture: Callable[[int, int], None],
    size_of: Callable[[int, int], Size] | None = None,
    style_prompts: StylePrompts = StylePrompts(),
    cache: Path | None = None,
    stretch: bool = False,
    mirrored: bool = False,
) -> EncodedSet:
    """Encode ``examples``, one or more, with the untrained family's VAE and text encoder.

    Each picture and prompt is encoded alone, so that it comes out the same whatever else there is.

    Args:
        family: the base model, as it is before anything of it is trained.
        examples: what to encode.
        load_pixels: gives the picture at a path at a size, (3, H, W) in [-1, 1]: a positive and its
            negatives go through the same, at the same size.
        on_picture: is told how many pictures of how many are done.
        size_of: the size, height first, of a picture of this width and height; None: a square.
        style_prompts: what prompts are without their content.
        cache: where encodings are kept from one training to the next; None: in memory.
        stretch: pictures are brought to their sizes whole; ``load_pixels`` is told so.
        mirrored: each picture's mirror image is encoded, too: that of what the model sees of it.
    """
    square = (family.resolution, family.resolution)
    sizes = [size_of(e.picture.width, e.picture.height) if size_of else square for e in examples]
    pictures = [(e.picture, size) for e, size in zip(examples, sizes, strict=True)]
    pictures += [(n, size) for e, size in zip(examples, sizes, strict=True) for n in e.negatives]
    counts, positives = tuple(len(example.negatives) for example in examples), len(examples)
    load = partial(load_pixels, stretch=True) if stretch else load_pixels
    way = " stretched" if stretch else ""
    sides = ("", MIRRORED) if mirrored else ("",)
    latents = _encoded_pictures(family, pictures, load, on_picture, cache, way, sides)
    prompts = tuple(example.prompt for example in examples)
    wordings = tuple(e.wordings or (e.prompt,) for e in examples)
    negative_wordings = tuple(
        e.negative_wordings
        or (e.wordings if e.negative_prompt is None else ())
        or (e.prompt if e.negative_prompt is None else e.negative_prompt,)
        for e in examples
    )
    said = chain.from_iterable((*wordings, *negative_wordings))
    forms = (*prompts, *said, style_prompts.positive, style_prompts.negative, "")
    geometry = {side: _geometry(pictures, stretch, side == MIRRORED) for side in sides}
    plain = EncodedSet(
        ids=tuple(example.id for example in examples),
        latents=latents[""].part(0, positives),
        negative_latents=latents[""].part(positives, len(pictures)),
        negative_counts=counts,
        negative_starts=tuple(accumulate(counts, initial=0))[:-1],
        geometry=geometry[""][:positives],
        negative_geometry=geometry[""][positives:],
        prompts=prompts,
        wordings=wordings,
        negative_wordings=negative_wordings,
        style_prompts=style_prompts,
        encoded_prompts=_encoded_prompts(family, forms, cache),
    )
    if not mirrored:
        return plain
    other = replace(
        plain,
        latents=latents[MIRRORED].part(0, positives),
        negative_latents=latents[MIRRORED].part(positives, len(pictures)),
        geometry=geometry[MIRRORED][:positives],
        negative_geometry=geometry[MIRRORED][positives:],
    )
    return replace(plain, mirrored=other)


def _geometry(
    pictures: Sequence[tuple[StoredPicture, Size]], stretch: bool, mirrored: bool
) -> Tensor:
    told = [geometry_of(p.width, p.height, size, stretch, mirrored) for p, size in pictures]
    return torch.from_numpy(np.array(told, dtype=np.int64))


def _encoded_pictures(
    family: Family,
    pictures: Sequence[tuple[StoredPicture, Size]],
    load_pixels: Callable[[Path, Size], Tensor],
    on_picture: Callable[[int, int], None],
    cache: Path | None,
    way: str,
    sides: Sequence[str],
) -> dict[str, TensorRows]:
    """The latents of ``pictures`` by side: as they are, or of their mirror images.

    An autoencoder's latent of a mirror image is another than its mirrored latent.
    """
    store = _store(family, cache, "latents")
    keys = {
        side: [
            digest_of(f"{p.sha256} {height}x{width}{way}{side}") for p, (height, width) in pictures
        ]
        for side in sides
    }
    for done, (picture, size) in enumerate(pictures, start=1):
        own = {side: keys[side][done - 1] for side in sides}
        if missing := {side: key for side, key in own.items() if key not in store}:
            pixels = load_pixels(picture.path, size)
            for side, key in missing.items():
                seen = pixels.flip(-1) if side == MIRRORED else pixels
                store.put(key, {"latents": family.encode_pictures(seen[None])[0]})
            on_picture(done, len(pictures))
    on_picture(len(pictures), len(pictures))
    return {side: store.rows(keys[side], "latents") for side in sides}


def _encoded_prompts(family: Family, texts: Iterable[str], cache: Path | None) -> EncodedPrompts:
    store = _store(family, cache, "prompts")
    unique = list(dict.fromkeys(texts))
    keys = [digest_of(text) for text in unique]
    for text, key in zip(unique, keys, strict=True):
        if key not in store:
            embeds = family.encode_prompts([text])
            pooled = {} if embeds.pooled is None else {"pooled": embeds.pooled[0]}
            store.put(key, {"tokens": embeds.each()[0], **pooled})
    return EncodedPrompts(
        row_of={text: row for row, text in enumerate(unique)},
        tokens=store.rows(keys, "tokens"),
        pooled=store.rows(keys, "pooled") if "pooled" in store.names() else None,
    )


def _store(family: Family, cache: Path | None, kind: str) -> TensorStore:
    recipe = {
        "base_revision": family.revision,
        "device": family.device.type,
        "dtype": str(family.dtype),  # T5 has it, too
        "vae_tiling": family.vae_tiling,
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
    }
    return TensorStore(None if cache is None else cache / kind, recipe)
