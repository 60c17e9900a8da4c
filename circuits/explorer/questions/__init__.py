"""What can be asked about a view: one file a question, with one function marked ``@question``.

Each yields pieces (`circuits.explorer.pieces`), the last of which says how to take the same numbers
along. What a piece has is in the docstring of its class, which is in the file of its question.
"""
