"""The benchmark of styles and trivial attributes, on the drawn world.

    python -m benchmarks.evidence run [--table main]    # make what has no result yet, then the page
    python -m benchmarks.evidence page                  # docs/evidence.md from what there is
    python -m benchmarks.evidence run --table search    # every method's rates, steps and drawings
    python -m benchmarks.evidence choose --table search # what each method is best at
    python -m benchmarks.evidence run --table chosen    # that, on other seeds and prompts
    python -m benchmarks.evidence diagnose --table main # why: what of each LoRA is bound to what

A *trial* is one training of one method on one set of pictures of one held-out style, from one
training seed, made by the pipeline's own stages, and what its pictures of other contents show. Each
is kept as a small file in ``benchmarks/evidence/results``: what is there is not done again, whoever
made it and where.
"""
