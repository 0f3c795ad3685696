"""What the names and calls in a pickle would do when it is unpickled elsewhere, decided by exact name. Nothing is
called.

Begin with `harmless`, which judges every call that the interpreter does not make.

    harmless     calls that only make a plain value
    makers       …with which scikit-learn, pandas, numpy and tensordict reconstruct their own objects
    new_objects  classes whose objects can be created without running anything else
    capable      names that can run anything, so that mentioning one counts as a call
"""
