"""``docs/evidence.md``: all its figures, plots and verdicts are computed from the results."""

import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import get_args

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
    BASELINES,
    FULL,
    GUIDANCE,
    LEARNING_RATE,
    METHODS,
    SEEDS,
    SETS,
    TABLES,
    Scale,
)
from benchmarks.evidence.plots import few_plot, pictures_grid, rates_plot
from benchmarks.evidence.results import Result, read_result
from benchmarks.evidence.tables import (
    AIM,
    diagnostics_table,
    differences_table,
    methods_table,
    rate,
    rates_table,
    styles_table,
)

MAIN = TABLES["main"]
WIDTH = 104


def write_page(results: Path, docs: Path, scale: Scale = FULL) -> None:
    """Write ``evidence.md`` and its pictures to ``docs``."""
    trials = Trials.of(_read(results, scale))
    images = docs / "images"
    images.mkdir(parents=True, exist_ok=True)
    lines = _page(trials, results, images, scale)
    text = "\n".join(lines).rstrip() + "\n"
    (docs / "evidence.md").write_text(text, encoding="utf-8", newline="\n")


def _read(results: Path, scale: Scale) -> list[Result]:
    """Every result of this scale."""
    tables = [table for table in TABLES.values() if table.scale == scale]
    trials = sorted(
        {t for table in tables for t in table.trials() if t.is_main and t.seed in SEEDS}
    )
    found = (read_result(results, trial, scale) for trial in trials)
    return [result for result in found if result is not None]


def _page(trials: Trials, results: Path, images: Path, scale: Scale) -> list[str]:
    sets = trials.sets()
    if not sets:
        return ["# Evidence", "", "There are no results yet: `python -m benchmarks.evidence run`."]
    main = [of for of in sets if of in MAIN.sets]
    others = [of for of in sets if of not in MAIN.sets]
    found = differences(
        trials,
        [
            (of, method, baseline)
            for of in main
            for baseline in BASELINES
            for method in _main_methods(trials, of)
            if baseline in trials.methods(of) and method not in BASELINES
        ],
    )
    return [
        *_head(trials, main),
        *_in_short(trials, main, found),
        *(line for of in main for line in _set_section(trials, of, found, results, images)),
        *_why(trials, main),
        *_others(trials, others, images),
        *_how(trials, sets, scale),
    ]


def _head(trials: Trials, main: Sequence[str]) -> list[str]:
    methods = list(dict.fromkeys(name for of in main for name in trials.methods(of)))
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
            "All methods of a seed see the same pictures in the same order with the same noise.",
            "Intervals are 95 %, of a bootstrap over training seeds and prompts (styles are not",
            "resampled).",
        ),
        "",
    ]


def _in_short(trials: Trials, main: Sequence[str], found: Sequence[Difference]) -> list[str]:
    lines = ["## In short", ""]
    for of in main:
        methods = _main_methods(trials, of)
        rates = [f"`{name}` {_rate(trials, of, name)}" for name in methods]
        lines.append(f"- **{of}**: style recognised in {', '.join(rates)}.")
        for baseline in BASELINES:
            for verdict in get_args(Verdict):
                named = [
                    f"`{one.a}`"
                    for one in found
                    if (one.of, one.b, one.verdict) == (of, baseline, verdict)
                ]
                if named:
                    lines.append(f"  - against `{baseline}`, {_said(named, verdict)}.")
        if SETS[of].confound is not None:
            lines += [f"  - {line}" for line in _aim(trials, of)]
    return [*lines, ""]


def _said(named: Sequence[str], verdict: str) -> str:
    several = len(named) > 1
    words = {
        "better": "are better" if several else "is better",
        "worse": "are worse" if several else "is worse",
        "trade-off": ("trade" if several else "trades") + " style for content or leak",
        "cannot be told apart": "cannot be told apart by style",
        "too few trainings": "cannot be judged: too few trainings",
    }
    return f"{_listed(named)} {words[verdict]}"


def _aim(trials: Trials, of: str) -> list[str]:
    """Which methods do all that a useful one would, over all styles and in each."""
    wanted = (
        f"style in at least {AIM[STYLE]:g}, content in at least {AIM[CONTENT]:g}, leak in at most "
        f"{AIM[LEAK]:g}"
    )
    on_average, everywhere = [], []
    for method in _main_methods(trials, of):
        seeds = trials.seeds(of, method)
        if _reached(trials, of, method, seeds):
            on_average.append(f"`{method}`")
        if all(_reached(trials, of, method, {s: chosen}) for s, chosen in seeds.items()):
            everywhere.append(f"`{method}`")
    over = _listed(on_average) if on_average else "no method"
    inside = _listed(everywhere) if everywhere else "none"
    return [f"{wanted}: reached on average over the styles by {over}, in every style by {inside}."]


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
    title = f"## {of.capitalize()}: {SETS[of].words}"
    file = f"evidence_{of}.jpg"
    lines = [title, ""]
    if pictures_grid(trials, of, _main_methods(trials, of), results, images / file):
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
                "Differences, paired over seeds and prompts; p is of the style's, adjusted (Holm)",
                "over all on this page. *Better*: p at most .05, and at most",
                f"{MOST_CONTENT_LOST:g} of content lost and {MOST_LEAK_ADDED:g} of leak added;",
                "else a trade-off.",
            ),
            "",
            *differences_table(of_set),
            "",
        ]
    return lines


def _why(trials: Trials, main: Sequence[str]) -> list[str]:
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
    for of in main:
        lines += [f"{of}:", "", *diagnostics_table(trials, of), ""]
    return lines


def _others(trials: Trials, others: Sequence[str], images: Path) -> list[str]:
    if not others:
        return []
    lines = ["## More confounds, fewer pictures", ""]
    lines += ["As far as there are results; how many trainings is in each table.", ""]
    if few_plot(trials, images / "evidence_few.png"):
        lines += ["![Style and content by the number of pictures](images/evidence_few.png)", ""]
    for of in others:
        lines += [f"### {of}: {SETS[of].words}", "", *rates_table(trials, of), ""]
    return lines


def _how(trials: Trials, sets: Sequence[str], scale: Scale) -> list[str]:
    count = sum(len(trials.each(of, method)) for of in sets for method in trials.methods(of))
    seconds = sum(
        result.training.get("seconds", 0.0)
        for of in sets
        for method in trials.methods(of)
        for result in trials.each(of, method)
    )
    return [
        "## How it was made",
        "",
        *_text(
            f"{count} trainings, each of {scale.steps} steps of {scale.batch_size} triplets",
            f"(`lora_longer`: {METHODS['lora_longer'].longer:g} times as many), LoRA of rank 8 on",
            "attention, feed-forward and convolution layers, AdamW at",
            f"{LEARNING_RATE:g}, cosine; {scale.test_pictures} prompts a training,",
            f"{scale.sampler_steps} steps at guidance {GUIDANCE:g}. Together",
            f"{seconds / 3600:.1f} hours of one core's time in training alone.",
        ),
        "",
        "```",
        "python -m benchmarks.evidence run                 # the main table; goes on where it was",
        "python -m benchmarks.evidence run --table wide    # everything",
        "python -m benchmarks.evidence run --table wide --sets water red --seeds 0 1",
        "python -m benchmarks.evidence page                # this page again, from what there is",
        "```",
        "",
        *_text(
            "A result that is in `benchmarks/evidence/results` is not made again, on whatever",
            "machine it was made; one whose settings (`benchmarks/evidence/matrix.py`) have",
            "changed is.",
        ),
        "",
        *_text(
            "What this does not say: anything of real pictures or of large models. The world is",
            "small, its classifiers share its code, and the pictures of a set are the same for all",
            "seeds: what differs between two seeds is the start, the order and the noise. The",
            "learning rate, the guidance and the extension's content dropout were chosen after",
            "looking at night sets at training seed 0, which is among the five: that seed flatters",
            "the extension, and other settings might favour other methods.",
        ),
    ]


def _text(*parts: str) -> list[str]:
    """A paragraph, in lines of the documents' width."""
    return textwrap.wrap(" ".join(parts), WIDTH, break_long_words=False, break_on_hyphens=False)


def _main_methods(trials: Trials, of: str) -> list[str]:
    """Those of the main table: what else there is stands in the tables, with its few trainings."""
    return [name for name in trials.methods(of) if name in MAIN.methods]


def _rate(trials: Trials, of: str, method: str) -> str:
    found = measure(trials, of, method, STYLE, trials.seeds(of, method))
    return "?" if found is None else rate(found.value)


def _listed(names: Iterable[str]) -> str:
    *most, last = list(names)
    return f"{', '.join(most)} and {last}" if most else last
