r"""Published codecs, one a file, assembled from blocks and quantizers.

Read in this order: ``base`` (the contract), ``registry``, ``speechtokenizer``, ``chunked``.
"""
