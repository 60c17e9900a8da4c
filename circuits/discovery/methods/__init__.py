"""The ways to score edges, one a file, found by their names."""
