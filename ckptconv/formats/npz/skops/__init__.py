"""Files of skops, as people share scikit-learn's models: a tree in JSON, and arrays of numpy's beside it in a zip.

read     the archive, and what becomes of it
schema   the tree: a loader for each object
nodes    …what a node of it says by itself
trusted  which types skops makes without being asked to trust them
"""
