"""Files of pickles and storages, as torch.save and ``pickle.dump`` write them.

Begin with `zip_archive`, which torch.save writes; the others are its predecessors, and pickles without a container.

    zip_archive    torch.save's archive
    saved          …the records in one
    legacy         torch.save before 1.6: pickles and storages one after another
    tar            …and before 0.1.12
    bare           bare pickles
    pickled        …and the arrays and storages that they build
    arrays_beside  arrays that gensim keeps in files beside a pickle
    embedded       such files in a bytes object of a pickle, as skorch stores its modules
    polyglot       files that another loader would read as something else
    slice_files    whether a file is one of several slices, by the names of the files beside it
"""
