r"""Layers with exact length arithmetic, from which every encoder and decoder is assembled.

Read in this order: ``activations``, ``conv``, ``recurrent``, ``tiling``, ``seanet``, ``frozen``,
``convnext``, ``stft``, ``spectral``.
"""
