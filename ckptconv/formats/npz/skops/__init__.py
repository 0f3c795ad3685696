"""Reader of skops' archives, in which scikit-learn models are shared: a JSON tree of objects, and numpy arrays.

read     the reader
schema   the tree of objects, and what loading them would run
nodes    the nodes of the tree
trusted  the types that skops loads without ``trusted=[…]``
"""
