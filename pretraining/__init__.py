"""How the embedded base was pretrained on the drawn world, and how good it is.

    python -m pretraining [--resume]    # train and export it (docs/sketchbook.md)
    python -m pretraining.quality       # measure it on fresh prompts
    python -m pretraining.card          # the pictures of its model card

What uses the base needs none of this: the weights and the world are in
``nsync_pipeline.sketchbook``.
"""
