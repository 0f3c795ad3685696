"""Files of pickles and storages, as torch.save and ``pickle.dump`` write them.

Begin with `zip_archive`, which torch.save writes; the others are its predecessors, and what has no container.

    zip_archive  torch.save's archive
    saved        …what it puts into one
    legacy       what it wrote before 1.6: pickles and storages one after another
    tar          …and before 0.1.12
    bare         pickles alone
    pickled      …what they build
    embedded     files of these kinds in the bytes of a pickle, as skorch keeps its modules
    second       what else such a file is to those who load it
    slice_files  whether it is one of several that make a model, by what lies beside it
"""
