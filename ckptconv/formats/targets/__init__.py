"""What a target holds of a checkpoint, found out before the first byte is written.

Begin with `preflight`, which finds what would be lost.

    preflight     what a target cannot hold
    plain         …and what becomes there of objects of classes
    plan          what a file with our record will hold
    blobs         …and metadata too large for a string in it
    header_first  writing files whose header says where the tensors behind it lie
"""
