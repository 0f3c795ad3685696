"""File formats: passports, the registry that picks one, and one room for each family.

Begin with `base`, which says what a format is, and with `npz`, the smallest family that is read and written.

    base  options  registry             what a format is; its own options (``-O``); which formats there are
    lookalikes                          files that are of none of them, and what to do with these
    outside                             files that mean nothing without the one beside them
    preflight  plain                    what a target cannot hold; what becomes of objects in one that cannot
    plan  blobs                         what a file with our record will hold; metadata too large for a string
    shards  shard_names  split          sets of files with an index, and how tensors are split into them
    folder_file                         which file of a folder is that index, or all of its checkpoint
    numbered  unindexed                 sets without one
    modules_beside                      models of which a folder has the first module's weights
    headers                             a tensor's type and shape, held against what can be
    graph_names  graph_notes            names of a graph's tensors, put together of those of what they lie in; what is
                                        said of a graph
    same_values  shared_bytes           what several files have alike; tensors that have the same bytes of a file
    members                             what a checkpoint in an archive has around it
    nested  omegaconf  texts            trees of arrays, of settings and of texts that several families have
    tensordicts                         pickled dicts of tensors, and their folders
    keras  evaluated                    what Keras runs of a model's configuration; metadata that others evaluate
    yaml_escapes                        letters of YAML that stand for others
    jinja                               chat templates that are attacks
    beside                              what else lies in a folder, and is run by those who load it
    torch  safetensors  onnx  gguf      families that are read and written
    npz
    hdf5  tensorflow  tflite  flax      families that are read
    openvino  coreml  paddle  mxnet
    caffe
    diffusers  archive                  folders and archives with checkpoints of other formats in them
"""
