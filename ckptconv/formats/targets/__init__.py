"""Shared by writers: what a target can hold of a checkpoint, decided before the first byte is written.

Begin with `preflight`, which finds what would be lost.

    preflight     what a target format cannot give back
    plain         …what objects of unknown classes become there
    plan          what a file with our record will hold: which tensors, in which types, under which names
    blobs         …metadata that is too large for the record
    header_first  writing files whose header says where the tensors after it are
"""
