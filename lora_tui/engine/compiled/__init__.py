"""C of ours for processors: `library.load_library` compiles it where there is a compiler.

``decoding.c`` decodes tokens, ``training.c`` computes what is between the products of a training step; both include
``vectors.h`` and ``threads.h``; ``tiles.h`` has the products of processors with matrix instructions.
"""
