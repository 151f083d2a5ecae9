r"""Layers with exact length arithmetic, from which every encoder and decoder is assembled.

Read in this order: ``conv``, ``antialias``, ``activations``, ``recurrent``, ``seanet``, ``tiling``,
``frozen``, ``stft``, ``convnext``, ``spectral``, ``vocos``, ``bigcodec``, ``transformer``.
"""
