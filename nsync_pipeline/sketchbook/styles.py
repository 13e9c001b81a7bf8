"""How pictures are drawn: six styles the base is pretrained on, four it never sees."""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw
from scipy.spatial import cKDTree

from nsync_pipeline.sketchbook.canvas import DRAWING_SIZE, PARTS_A_THING, Drawing
from nsync_pipeline.sketchbook.composition import SKY_PART
from nsync_pipeline.sketchbook.texture import (
    Field,
    blurred,
    borders,
    finished,
    flat_colours,
    outlined_parts,
    region_means,
    smooth_noise,
    warped,
)  # fmt: skip

StylePainter = Callable[[Drawing, np.random.Generator], Image.Image]


def draw_photo(drawing: Drawing, rng: np.random.Generator) -> Image.Image:
    """Photograph: light from the upper left, a shadow on the ground, depth blur, film grain."""
    things = drawing.things.astype(np.float32)
    soft = blurred(things, 14)
    light = np.roll(soft, (-10, -10), (0, 1)) - np.roll(soft, (10, 10), (0, 1))
    shadow = np.roll(blurred(things, 7), (10, 18), (0, 1)) * (1 - things)
    picture = flat_colours(drawing)
    backdrop = blurred(picture, 3.6)
    depth = np.linspace(1.06, 0.9, picture.shape[0], dtype=np.float32)[:, None, None]
    picture = np.where(things[..., None] > 0, blurred(picture, 1.0), backdrop * depth)
    picture = picture * (1 - 0.55 * light * things)[..., None]
    picture = picture + np.clip(-light * things, 0, 1)[..., None] * 0.25
    picture = picture * (1 - 0.45 * shadow)[..., None]
    axis = np.linspace(-1, 1, picture.shape[0], dtype=np.float32)
    vignette = 1 - 0.22 * (axis[:, None] ** 2 + axis[None] ** 2)
    grain = rng.standard_normal((*things.shape, 1)).astype(np.float32) * 0.018
    developed: Field = picture * vignette[..., None] * 0.97 + grain
    return finished(developed)


def draw_illustration(drawing: Drawing, rng: np.random.Generator) -> Image.Image:
    """Flat illustration: clean even colours, a little more saturated; `rng` says how much."""
    picture = flat_colours(drawing)
    grey = picture.mean(axis=2, keepdims=True)
    saturation = np.float32(rng.uniform(1.1, 1.2))
    return finished(grey + (picture - grey) * saturation)


WATERCOLOR_PAPER = np.array((0.98, 0.965, 0.93), dtype=np.float32)


def draw_watercolor(drawing: Drawing, rng: np.random.Generator) -> Image.Image:
    """Watercolour: thin washes on paper, pigment pooling at the edges, wavering outlines."""
    edges = borders(outlined_parts(drawing), 5).astype(np.float32)[..., None]
    sheet = np.concatenate([blurred(flat_colours(drawing), 1.4), edges], axis=2)
    sheet = warped(sheet, rng, 3.0, 16)
    wash, pooled = sheet[..., :3], blurred(sheet[..., 3], 1.4)
    pigment = 0.66 + 0.13 * smooth_noise(rng, 9) + 0.34 * pooled
    pigment = pigment + 0.05 * smooth_noise(rng, 72)
    from_edge = np.minimum(np.arange(DRAWING_SIZE), np.arange(DRAWING_SIZE)[::-1])
    border = np.minimum.outer(from_edge, from_edge)
    wet = np.clip((border + 6 * smooth_noise(rng, 24) - 10) / 5, 0, 1)
    strength = (np.clip(pigment, 0.2, 1.1) * wet).astype(np.float32)[..., None]
    return finished(WATERCOLOR_PAPER * (1 - strength + strength * wash * 1.04))


INK_PAPER = np.array((0.965, 0.945, 0.895), dtype=np.float32)
INK = np.array((0.1, 0.1, 0.14), dtype=np.float32)
HATCHING_PERIOD = 16  # drawing pixels between two strokes


def draw_ink(drawing: Drawing, rng: np.random.Generator) -> Image.Image:
    """Ink on cream paper: black outlines, dark places hatched, the things lightly tinted."""
    colours = flat_colours(drawing)
    darkness = 1 - colours @ np.array((0.3, 0.59, 0.11), dtype=np.float32)
    rows, columns = np.mgrid[0 : colours.shape[0], 0 : colours.shape[1]]
    offset = int(rng.integers(HATCHING_PERIOD))
    rising = (rows + columns + offset) % HATCHING_PERIOD < 3
    falling = (rows - columns + offset) % HATCHING_PERIOD < 3
    backdrop = ~drawing.things
    hatched = (rising & (darkness > 0.36) | falling & (darkness > 0.66)) & backdrop
    hatched |= rising & (darkness > 0.45) & ~backdrop
    lines = borders(outlined_parts(drawing), 5) | hatched
    tint = np.where(backdrop[..., None], 0.12, 0.62).astype(np.float32)
    paper = INK_PAPER * (1 - tint + tint * colours * 1.05)
    return finished(warped(np.where(lines[..., None], INK, paper), rng, 1.4, 28))


CRAYON_PAPER = np.float32(0.985)
STREAK_LENGTH = 22  # drawing pixels


def draw_crayon(drawing: Drawing, rng: np.random.Generator) -> Image.Image:
    """Wax crayon: streaks that leave the paper's grain white, and slant otherwise on the things."""
    noise = rng.standard_normal((DRAWING_SIZE, DRAWING_SIZE)).astype(np.float32)
    noise = blurred(noise, 1.1)
    steps = range(STREAK_LENGTH)
    rising = np.sum([np.roll(noise, (step, -step), (0, 1)) for step in steps], axis=0)
    falling = np.sum([np.roll(noise, (step, step), (0, 1)) for step in steps], axis=0)
    streaks = np.where(drawing.things, falling, rising)
    streaks = streaks / streaks.std()
    coverage = 1 / (1 + np.exp(-2.6 * (streaks + 0.7)))
    edges = borders(outlined_parts(drawing), 5)
    colours = flat_colours(drawing)
    colours = np.where(edges[..., None], colours * 0.72, colours)
    coverage = np.where(edges, np.maximum(coverage, 0.75), coverage).astype(np.float32)
    sheet = np.concatenate([colours, coverage[..., None]], axis=2)
    sheet = warped(sheet, rng, 2.2, 26)
    return finished(CRAYON_PAPER + (sheet[..., :3] - CRAYON_PAPER) * sheet[..., 3:])


BACKDROP_DABS, THING_DABS = 560, 900
DAB_LENGTH, DAB_WIDTH = 17.0, 8  # drawing pixels


def draw_oil(drawing: Drawing, rng: np.random.Generator) -> Image.Image:
    """Oil: thick dabs, each with its own shade and a lit ridge; shorter ones on the things."""
    image = Image.fromarray(drawing.colours)
    brush = ImageDraw.Draw(image)
    angles = 0.6 * smooth_noise(rng, 4)
    everywhere = rng.uniform(0, DRAWING_SIZE, (BACKDROP_DABS, 2))
    rows, columns = np.nonzero(drawing.things)
    chosen = rng.integers(0, max(len(rows), 1), min(THING_DABS, len(rows)))
    on_things = np.stack([rows[chosen], columns[chosen]], axis=1).astype(np.float64)
    shades = 1 + 0.13 * rng.standard_normal(len(everywhere) + len(on_things))
    centres = np.concatenate([everywhere, on_things])
    at = tuple(centres.astype(int).T)
    on_thing = np.arange(len(centres)) >= BACKDROP_DABS
    painted_over = on_thing | ~drawing.things[at]
    angle = angles[at] + 1.1 * on_thing
    reach = DAB_LENGTH / 2 * np.where(on_thing, 0.4, 1.0)
    along = np.stack([np.sin(angle), np.cos(angle)], axis=1) * reach[:, None]
    ends = np.concatenate([centres - along, centres + along], axis=1)[:, (1, 0, 3, 2)]
    fills = (drawing.colours[at] * shades[:, None]).clip(0, 255).astype(int).tolist()
    for index in np.nonzero(painted_over)[0]:
        width = DAB_WIDTH - 2 if on_thing[index] else DAB_WIDTH
        brush.line(ends[index].tolist(), fill=tuple(fills[index]), width=width)
    painted = flat_colours(Drawing(np.asarray(image), drawing.parts))
    tone = painted.mean(axis=2)
    relief = tone - np.roll(tone, (3, 2), (0, 1))
    rich = painted.mean(axis=2, keepdims=True) * -0.12 + painted * 1.12
    return finished(rich * 0.95 + 0.5 * relief.clip(-0.15, 0.15)[..., None])


TILE = 22.0  # drawing pixels: 11 in the picture
GROUT = np.array((0.5, 0.46, 0.42), dtype=np.float32)


def draw_mosaic(drawing: Drawing, rng: np.random.Generator) -> Image.Image:
    """Mosaic: square tiles cut along the shapes, each of its own stone, set in pale grout."""
    rows, columns = np.mgrid[0:DRAWING_SIZE, 0:DRAWING_SIZE]
    rows = (rows + 3.0 * smooth_noise(rng, 5) + rng.uniform(0, TILE)) // TILE
    columns = (columns + 3.0 * smooth_noise(rng, 5) + rng.uniform(0, TILE)) // TILE
    parts = outlined_parts(drawing)
    cells = ((rows + 4) * 64 + columns + 4).astype(np.int64)
    _, tiles = np.unique(cells * 256 + parts, return_inverse=True)
    tiles = tiles.reshape(parts.shape)
    stones = 1 + 0.12 * rng.standard_normal(int(tiles.max()) + 1).astype(np.float32)
    picture = region_means(flat_colours(drawing), tiles) * stones[tiles][..., None]
    silhouettes = np.where(drawing.things, parts // PARTS_A_THING, parts)
    grout = borders(cells, 3) | borders(silhouettes, 3)
    lit = np.roll(grout, (3, 3), (0, 1)) & ~grout
    picture = np.where(lit[..., None], picture * 0.85 + 0.15, picture)
    return finished(np.where(grout[..., None], GROUT, picture))


BACKDROP_SPACING, THING_SPACING = 14.0, 11.0  # drawing pixels between dots: about 6 in the picture
RADIUS_SHARE = 0.46  # of the spacing
CANVAS_TONE = (242, 230, 202)


def draw_pointillist(drawing: Drawing, rng: np.random.Generator) -> Image.Image:
    """Pointillist: round dots on a warm canvas; some take the complementary hue."""
    image = Image.new("RGB", (DRAWING_SIZE, DRAWING_SIZE), CANVAS_TONE)
    brush = ImageDraw.Draw(image)
    _dot(brush, drawing, BACKDROP_SPACING, 0.2, rng, only_things=False)
    _dot(brush, drawing, THING_SPACING, 0.08, rng, only_things=True)
    return finished(flat_colours(Drawing(np.asarray(image), drawing.parts)))


def _dot(
    brush: ImageDraw.ImageDraw,
    drawing: Drawing,
    spacing: float,
    complements: float,
    rng: np.random.Generator,
    only_things: bool,
) -> None:
    """Set dots of local colour on a jittered hexagonal grid, on the backdrop or the things."""
    side = int(DRAWING_SIZE / (spacing * 0.866)) + 2
    rows, columns = np.mgrid[0:side, 0:side].reshape(2, -1)
    ys = rows * spacing * 0.866 + rng.uniform(-0.11, 0.11, rows.shape) * spacing
    xs = (columns + rows % 2 / 2) * spacing + rng.uniform(-0.11, 0.11, rows.shape) * spacing
    last = DRAWING_SIZE - 1
    at = (ys.astype(int).clip(0, last), xs.astype(int).clip(0, last))
    colours = drawing.colours[at] * rng.uniform(0.86, 1.14, (len(xs), 1))
    grey = colours.mean(axis=1, keepdims=True)
    complementary = rng.random((len(xs), 1)) < complements
    fills = np.where(complementary, grey + 0.8 * (grey - colours), colours)
    fills = fills.clip(0, 255).astype(int)
    radii = spacing * (RADIUS_SHARE + rng.uniform(-0.04, 0.04, len(xs)))
    circles = np.stack([xs - radii, ys - radii, xs + radii, ys + radii], axis=1).tolist()
    for index in np.nonzero(drawing.things[at] == only_things)[0]:
        brush.ellipse(circles[index], fill=tuple(fills[index].tolist()))


KEY_INK = np.array((0.09, 0.1, 0.17), dtype=np.float32)
PRINT_PAPER = np.array((0.93, 0.87, 0.74), dtype=np.float32)
GRAIN_PERIOD = 18.0  # drawing pixels between two grain lines


def draw_woodblock(drawing: Drawing, rng: np.random.Generator) -> Image.Image:
    """Woodblock print: bold key lines, few aged inks, wood grain, a shaded sky."""
    parts = outlined_parts(drawing)
    inks = flat_colours(drawing)
    aged = np.where(drawing.things, 0.1, 0.42).astype(np.float32)[..., None]
    inks = ((1 - aged) * inks + aged * inks.mean(axis=2, keepdims=True)) * PRINT_PAPER
    rows = np.arange(DRAWING_SIZE, dtype=np.float32)[:, None]
    bend = 10 * smooth_noise(rng, 4, 3)
    wave = np.sin(2 * np.pi * (rows + bend) / GRAIN_PERIOD + rng.uniform(0, 6.28))
    grain = np.clip((wave - 0.35) * 2.2, 0, 1)
    bokashi = np.clip(1 - rows / 68, 0, 1) * (parts == SKY_PART)
    picture = inks * (1 - 0.5 * bokashi)[..., None]
    strength = np.where(drawing.things, 0.09, 0.2)[..., None]
    picture = picture + (PRINT_PAPER - picture) * (grain[..., None] * strength)
    picture = picture - 0.1 * (1 - strength) * grain[..., None] * (picture > 0.75)
    lines = borders(parts, 6)
    return finished(np.where(lines[..., None], KEY_INK, picture).astype(np.float32))


PANE = 40.0  # drawing pixels: 20 in the picture
LEAD = np.array((0.07, 0.07, 0.09), dtype=np.float32)


def draw_stained_glass(drawing: Drawing, rng: np.random.Generator) -> Image.Image:
    """Stained glass: panes cut along the shapes, which shine in the middle, between dark leads."""
    count = int(np.ceil(DRAWING_SIZE / PANE)) + 1
    grid = np.moveaxis(np.mgrid[0:count, 0:count], 0, -1).reshape(-1, 2) * PANE
    seeds = grid + rng.uniform(-0.42, 0.42, grid.shape) * PANE
    pixels = np.moveaxis(np.mgrid[0:DRAWING_SIZE, 0:DRAWING_SIZE], 0, -1).reshape(-1, 2)
    _, nearest = cKDTree(seeds).query(pixels)
    cells = nearest.reshape(DRAWING_SIZE, DRAWING_SIZE)
    cells = np.where(drawing.things, 0, cells)  # things are panes of their own
    parts = outlined_parts(drawing)
    _, panes = np.unique(cells * 256 + parts, return_inverse=True)
    panes = panes.reshape(parts.shape)
    picture = region_means(flat_colours(drawing), panes)
    grey = picture.mean(axis=2, keepdims=True)
    hues = rng.normal(1, 0.09, (int(panes.max()) + 1, 3)).astype(np.float32)
    glass = (grey + (picture - grey) * 1.5) * hues[panes]
    leads = borders(panes, 6)
    glow = blurred((~leads).astype(np.float32), 6.0)[..., None]
    glass = glass * (0.45 + 0.68 * glow) + 0.06 * glow
    return finished(np.where(leads[..., None], LEAD, glass).astype(np.float32))


SEEN_PAINTERS: dict[str, StylePainter] = {
    "photo": draw_photo,
    "illustration": draw_illustration,
    "watercolor": draw_watercolor,
    "ink": draw_ink,
    "crayon": draw_crayon,
    "oil": draw_oil,
}
HELD_OUT_PAINTERS: dict[str, StylePainter] = {
    "mosaic": draw_mosaic,
    "pointillist": draw_pointillist,
    "woodblock": draw_woodblock,
    "stained_glass": draw_stained_glass,
}
PAINTERS = SEEN_PAINTERS | HELD_OUT_PAINTERS
