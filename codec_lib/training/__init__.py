r"""Training: the only package with optimisers.

Reading order: ``config.py`` what a run is, ``stages.py`` and ``presets.py`` what it is made of,
``freezing.py`` what it leaves alone, ``steps.py`` one step, ``schedule.py`` and
``averaging.py`` two helpers of it, ``batches.py`` and ``teaching.py`` what it eats,
``validation.py`` and ``logs.py`` what it says, ``checkpoints.py`` how it survives, ``launch.py``
where it runs, ``run.py`` its state, ``driving.py`` from a checkpoint to the end, ``loop.py`` all of
it together. ``frames.py`` trains a quantizer on bare frames and needs none of it.
"""
