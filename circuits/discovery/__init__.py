"""Finding circuits: how much each edge matters by different methods, and which edges to keep.

A `Search` says what is asked; the methods, one a file of `circuits.discovery.methods`, answer with
a score for each edge.
"""

from circuits.discovery.search import METHODS, Method, Scored, Search

__all__ = ["METHODS", "Method", "Scored", "Search"]
