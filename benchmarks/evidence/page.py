"""``docs/evidence.md``: all its figures, plots and verdicts are computed from the results."""

import json
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from benchmarks.evidence.choice import CHOSEN_FILE, Point, area, choose, curves, table_of
from benchmarks.evidence.comparison import (
    CONTENT,
    LEAK,
    MOST_CONTENT_LOST,
    MOST_LEAK_ADDED,
    STYLE,
    Difference,
    Trials,
    Verdict,
    differences,
    measure,
)
from benchmarks.evidence.matrix import (
    CHOOSING_SEEDS,
    FULL,
    GUIDANCE,
    LOT,
    METHODS,
    ORDINARY,
    SEEDS,
    SETS,
    STYLES,
    TABLES,
    UNSEEN_STYLE,
    Scale,
    Tuning,
)
from benchmarks.evidence.plots import curves_plot, pictures_grid, rates_plot
from benchmarks.evidence.results import REAL, TAUGHT_BY, Result, read_result
from benchmarks.evidence.tables import (
    AIM,
    diagnostics_table,
    differences_table,
    markdown,
    methods_table,
    rate,
    rates_table,
    styles_table,
)
from nsync_pipeline.workspace import BASE

Found = Mapping[str, Mapping[Tuning, Sequence[Point]]]
WIDTH = 104


def write_page(results: Path, docs: Path, scale: Scale = FULL) -> None:
    """Write ``evidence.md`` and its pictures to ``docs``."""
    trials = Trials.of(_read(results, scale))
    searched = curves(results, TABLES["search"]) if scale == FULL else {}
    images = docs / "images"
    images.mkdir(parents=True, exist_ok=True)
    lines = _page(trials, searched, results, images, scale)
    _front_picture(trials, results, images)
    text = "\n".join(lines).rstrip() + "\n"
    (docs / "evidence.md").write_text(text, encoding="utf-8", newline="\n")


def _front_picture(trials: Trials, results: Path, images: Path) -> None:
    """``evidence_front.jpg``: of the confounded set, the base, plain LoRA and the paper's rule."""
    of = "night"
    best = {entry.split()[0]: entry for entry in trials.methods(of)}
    if not {"lora", "nsync"} <= best.keys():
        return
    columns = {TAUGHT_BY: "taught by", BASE: "base", "lora": "plain LoRA, as trained"}
    columns |= {best["lora"]: "plain LoRA, at its best", best["nsync"]: "NSYNC, at its best"}
    title = "Taught by pictures of the night; asked for by day"
    pictures_grid(title, columns, STYLES, of, results, images / "evidence_front.jpg")


def _read(results: Path, scale: Scale) -> list[Result]:
    """Every result that is reported on."""
    if scale == FULL and not (results / CHOSEN_FILE).is_file():
        return []
    table = table_of("chosen", results) if scale == FULL else TABLES[scale.name]
    found = (read_result(results, trial, scale) for trial in table.trials())
    return [result for result in found if result is not None]


def _page(trials: Trials, searched: Found, results: Path, images: Path, scale: Scale) -> list[str]:
    sets = trials.sets()
    if not sets and not searched:
        return ["# Evidence", "", "There are no results yet: `python -m benchmarks.evidence run`."]
    found = differences(trials, [(of, *pair) for of in sets for pair in _compared(trials, of)])
    methods = [name for of in sets for name in trials.methods(of)] + list(searched)
    return [
        *_head(dict.fromkeys(name.split()[0] for name in methods)),
        *_in_short(trials, sets, found),
        *([] if sets else [*_text(UNREPORTED), ""]),
        *_search(searched, images),
        *_chosen(results if sets else None),
        *(line for of in sets for line in _set_section(trials, of, found, results, images)),
        *_why(trials, sets),
        *_how(trials, sets, scale),
    ]


def _compared(trials: Trials, of: str) -> list[tuple[str, str]]:
    """Each method with what a person has for free, like with like: as trained, or at its best.

    At its best a method is against plain LoRA at its own, and against plain LoRA trained longer;
    and against itself as it was trained, for what the drawing brings.
    """
    entries = trials.methods(of)
    best = {entry.split()[0]: entry for entry in entries}  # as trained comes before
    as_trained = [method for method in best if method in entries]
    pairs = [(method, "lora") for method in as_trained]
    for control in ("lora", "lora_longer"):
        others = [method for method in best if method not in ("lora", control)]
        pairs += [(best[method], best[control]) for method in others if control in best]
    pairs += [(best[method], method) for method in as_trained]
    return [(a, b) for a, b in dict.fromkeys(pairs) if a != b]


UNREPORTED = (
    "Nothing is reported yet at the settings so chosen, and rows of few trainings or drawings "
    "decide nothing: with this base the search is under way. The last whole evidence, of all "
    "methods at one learning rate and drawn as they were trained, is of the base at 64 pixels that "
    "shipped before: [evidence_64px.md](evidence_64px.md)."
)


def _search(searched: Found, images: Path) -> list[str]:
    """What was chosen, and the curves it was chosen by."""
    if not searched:
        return []
    rows = []
    for method, tunings in searched.items():
        best, _ = choose(tunings)
        for tuning, points in sorted(tunings.items()):
            mark = "**" if tuning == best else ""
            own = max(points, key=lambda one: one.score)
            plain = next(one for one in points if one.drawing == ORDINARY)
            cells = [f"{tuning.rate:g}", f"{mark}{area(points):.2f}{mark}", _three(plain)]
            cells += [f"`{own.drawing}`", _three(own), str(len(points)), str(own.trials)]
            rows.append([f"`{method}`", *cells])
    curves_plot(
        {method: tunings[choose(tunings)[0]] for method, tunings in searched.items()},
        images / "evidence_curves.png",
    )
    return [
        "## The settings of each method, searched alike",
        "",
        *_text(
            f"On the night set, at seeds {' and '.join(map(str, CHOOSING_SEEDS))} (other pictures,",
            "prompts and noise than are reported on), every method is trained at each learning",
            "rate (the baselines at a third in one style: the better of two is no edge),",
            "at the second seed at the one that was better at the first, and drawn in each way: as",
            "it was trained; with the LoRA at a strength (`s`);",
            "guided by the base's empty prompt, with the LoRA at a strength (`be`); by the base's",
            "own guidance and a weight of what the LoRA changes (`d`;",
            "[method.md](method.md) has the formulas). The rate is chosen by the area under the",
            "curve of style against content over all drawings, the drawing by the style, less what",
            f"content lacks of {AIM[CONTENT]:g} and leak exceeds {AIM[LEAK]:g}.",
        ),
        "",
        "![Style against content of each method over its drawings](images/evidence_curves.png)",
        "",
        *markdown(
            ["method", "rate", "area", "as trained: style / content / leak", "drawing", "drawn so",
             "drawings", "trainings"],
            rows,
        ),
        "",
    ]  # fmt: skip


def _chosen(results: Path | None) -> list[str]:
    """What the choice was made on; nothing where nothing is reported by it."""
    if results is None or not (results / CHOSEN_FILE).is_file():
        return []
    kept = json.loads((results / CHOSEN_FILE).read_text(encoding="utf-8"))
    trainings = sorted({one["trainings"] for one in kept.values()})
    return [
        *_text(
            "What is reported below was chosen on",
            f"{' or '.join(map(str, trainings))} trainings a method:",
            ", ".join(
                f"`{method}` at {one['rate']:g}, drawn `{one['drawing']}`"
                for method, one in kept.items()
            )
            + ".",
        ),
        "",
    ]


def _three(point: Point) -> str:
    return f"{rate(point.style)} / {rate(point.content)} / {rate(point.leak)}"


def _head(methods: Iterable[str]) -> list[str]:
    return [
        "# Evidence: what the contrast does, measured on the drawn world",
        "",
        *_text(
            "Every figure, verdict and picture on this page was written by",
            "`python -m benchmarks.evidence run` from the result files in",
            "`benchmarks/evidence/results`.",
        ),
        "",
        *_text(
            "The embedded world draws styles that its base model never saw, of scenes whose",
            "contents are known, and has classifiers that see style, things, colours, places and",
            "skies. So what can only be judged by eye elsewhere is counted here: a model is taught",
            "a style, then asked for *other contents*, and of each picture it draws is told",
        ),
        "",
        "- **style recognised**: how surely the classifier takes it for the style (a probability);",
        "- **content kept**: which share of the things asked for are there, in their colours;",
        "- **leak**: whether it shows what all training pictures shared and nobody asked for.",
        "",
        *_text(
            "A *plain* set teaches the style with all kinds of contents. In a *confounded* set all",
            "pictures share something trivial beside the style, and say so in their captions: a",
            "moon, say. What is asked for afterwards has none of it.",
        ),
        "",
        *methods_table(methods),
        "",
        *_text(
            "Each method has a learning rate and a way of drawing of its own, searched alike and",
            "chosen on other seeds; `lora d_1_5` is plain LoRA drawn in the way `d_1_5`, `lora`",
            "alone is drawn as it was trained. All methods of a seed see the same pictures in the",
            "same order with the same noise. Intervals are 95 %, of a bootstrap over training",
            "seeds and prompts (styles are not resampled).",
        ),
        "",
    ]


def _in_short(trials: Trials, sets: Sequence[str], found: Sequence[Difference]) -> list[str]:
    if not sets:
        return []
    lines = ["## In short", ""]
    for of in sets:
        rates = [f"`{name}` {_rate(trials, of, name)}" for name in trials.methods(of)]
        lines += _item(f"**{of}**: style recognised in {', '.join(rates)}.")
        groups: dict[tuple[str, Verdict], list[str]] = {}
        for one in found:
            if one.of == of:
                itself = one.a.split()[0] == one.b
                control = "itself as it was trained" if itself else f"`{one.b}`"
                groups.setdefault((control, one.verdict), []).append(f"`{one.a}`")
        for (control, verdict), named in groups.items():
            lines += _item(f"against {control}, {_said(named, verdict)}.", "  ")
        if SETS[of].confound is not None:
            lines += _item(_aim(trials, of), "  ")
    return [*lines, ""]


def _item(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(
        text, WIDTH, initial_indent=f"{indent}- ", subsequent_indent=f"{indent}  ",
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip


def _said(named: Sequence[str], verdict: str) -> str:
    several = len(named) > 1
    words = {
        "better": "are better" if several else "is better",
        "worse": "are worse" if several else "is worse",
        "trade-off": ("trade" if several else "trades") + " style for content or leak",
        "keeps more content": ("keep" if several else "keeps")
        + " more of the content, at no less style",
        "loses content": ("lose" if several else "loses") + " content, for no more style",
        "cannot be told apart": "cannot be told apart",
        "too few trainings": "cannot be judged: too few trainings",
    }
    return f"{_listed(named)} {words[verdict]}"


def _aim(trials: Trials, of: str) -> str:
    """Which methods do all that a useful one would, over all styles and in each."""
    wanted = (
        f"style in at least {AIM[STYLE]:g}, content in at least {AIM[CONTENT]:g}, leak in at most "
        f"{AIM[LEAK]:g}"
    )
    on_average, everywhere = [], []
    for method in trials.methods(of):
        seeds = trials.seeds(of, method)
        if _reached(trials, of, method, seeds):
            on_average.append(f"`{method}`")
        if all(_reached(trials, of, method, {s: chosen}) for s, chosen in seeds.items()):
            everywhere.append(f"`{method}`")
    over = _listed(on_average) if on_average else "no method"
    inside = _listed(everywhere) if everywhere else "none"
    return f"{wanted}: reached on average over the styles by {over}, in every style by {inside}."


def _reached(trials: Trials, of: str, method: str, seeds: dict[str, list[int]]) -> bool:
    values = {}
    for name in AIM:
        found = measure(trials, of, method, name, seeds)
        if found is None:
            return False
        values[name] = found.value
    return (
        values[STYLE] >= AIM[STYLE]
        and values[CONTENT] >= AIM[CONTENT]
        and values[LEAK] <= AIM[LEAK]
    )


def _set_section(
    trials: Trials, of: str, found: Sequence[Difference], results: Path, images: Path
) -> list[str]:
    file = f"evidence_{of}.jpg"
    lines = [f"## {of.capitalize()}: {SETS[of].words}", ""]
    shown = {TAUGHT_BY: "training", REAL: "asked for, real", BASE: "base"}
    # The drawing alone: its method, as it was trained, is the column before.
    shown |= {entry: entry.split()[-1] for entry in trials.methods(of)}
    title = f"{of}: {SETS[of].words}"
    if pictures_grid(title, shown, trials.styles(of), of, results, images / file):
        lines += [
            f"![What each method drew after the {of} set](images/{file})",
            "",
            f"*The first four pictures of each, training seed {SEEDS[0]}.*",
            "",
        ]
    plot = f"evidence_{of}_rates.png"
    rates_plot(trials, of, images / plot)
    lines += [
        f"![Rates on the {of} set](images/{plot})",
        "",
        "*With 95 % intervals; the small dots are the means of the single styles.*",
        "",
        *rates_table(trials, of),
    ]
    marks = " / leak" if SETS[of].confound else ""
    lines += ["", f"By style (style recognised / content kept{marks}):", ""]
    lines += [*styles_table(trials, of), ""]
    of_set = [one for one in found if one.of == of]
    if of_set:
        lines += [
            *_text(
                "Differences, paired over seeds and prompts; each p is adjusted (Holm) over all on",
                "this page. *Better*: p of the style at most .05, and at most",
                f"{MOST_CONTENT_LOST:g} of content lost and {MOST_LEAK_ADDED:g} of leak added;",
                "else a trade-off. Where the style tells nothing apart, the content may, alike.",
            ),
            "",
            *differences_table(of_set),
            "",
        ]
    return lines


def _why(trials: Trials, sets: Sequence[str]) -> list[str]:
    if not sets:
        return []
    lines = [
        "## Why: the two gradients",
        "",
        *_text(
            "Means over styles and seeds. The paper's rule can remove only what `g+` and `g-`",
            "share in one step. A cosine near 0 that swings from step to step is chance, not",
            "something shared.",
        ),
        "",
    ]
    for of in sets:
        lines += [f"{of}:", "", *diagnostics_table(trials, of), ""]
    return lines


def _how(trials: Trials, sets: Sequence[str], scale: Scale) -> list[str]:
    each = [r for of in sets for entry in trials.methods(of) for r in trials.each(of, entry)]
    trainings = {(r.style, r.set, r.method, r.seed): r.training for r in each}
    seconds = sum(training.get("seconds", 0.0) for training in trainings.values())
    return [
        "## How it was made",
        "",
        *_text(
            f"A training has {scale.steps} steps of {scale.batch_size} triplets (`lora_longer`:",
            f"{METHODS['lora_longer'].longer:g} times as many), LoRA of rank 8 on attention,",
            "feed-forward and convolution layers, AdamW, cosine;",
            f"{scale.test_pictures} prompts a training, {scale.sampler_steps} steps at guidance",
            f"{GUIDANCE:g}. The style {UNSEEN_STYLE} and the sets {' and '.join(LOT)}, drawn by",
            "lot of the four confounds beside the night, had no part in any choice.",
            f"{len(trainings)} trainings are reported on, of {seconds / 3600:.1f} hours of one",
            "core's time together.",
        ),
        "",
        "```",
        "python -m benchmarks.evidence run --table search  # goes on where it was",
        "python -m benchmarks.evidence choose              # each method's settings",
        "python -m benchmarks.evidence run --table chosen  # what is reported",
        "python -m benchmarks.evidence page                # this page, from what there is",
        "```",
        "",
        *_text(
            "A result that is in `benchmarks/evidence/results` is not made again, on whatever",
            "machine it was made; one whose settings (`benchmarks/evidence/matrix.py`) or whose",
            "base have changed is.",
        ),
        "",
        *_text(
            "What this does not say: anything of real pictures or of large models. The world is",
            "small, its classifiers share its code, and the pictures of a set are the same for all",
            f"seeds from {SEEDS[0]} to {SEEDS[-1]}: what differs between two of them is the start,",
            "the order and the noise.",
        ),
        "",
        *_text(
            "Real pictures that share something beside their style, the tone of their paper say,",
            "cannot be asked of this base: it draws nothing outside its own world, and no",
            "classifier says of a real picture whether the tone is there without being asked for.",
            "Nor would the rules be expected to take it out: what captions do not name is not in",
            "the negatives, so a contrast with them keeps it as part of the style.",
        ),
    ]


def _text(*parts: str) -> list[str]:
    """A paragraph, in lines of the documents' width."""
    return textwrap.wrap(" ".join(parts), WIDTH, break_long_words=False, break_on_hyphens=False)


def _rate(trials: Trials, of: str, method: str) -> str:
    found = measure(trials, of, method, STYLE, trials.seeds(of, method))
    return "?" if found is None else rate(found.value)


def _listed(names: Iterable[str]) -> str:
    *most, last = list(names)
    return f"{', '.join(most)} and {last}" if most else last
