"""File formats: passports, the registry that picks one, and one room for each family.

Begin with `base`, which says what a format is, and with `npz`, the smallest family that is read and written.

    base  options                       what a format is; its own options (``-O``)
    registry  detect                    which formats there are; which of them a file is of
    lookalikes                          files that are of none of them, and what to do with these
    outside                             files that mean nothing without the one beside them
    targets                             what a target cannot hold, and what it will
    sets                                files that are one checkpoint together
    modules                             …models of sentence-transformers, in a folder for each module
    trees  tensors  graphs              what several families have alike: trees of values, headers of tensors, graphs
    code                                code where data should be: chat templates, Keras' layers
    beside                              what else lies in a folder, and is run by those who load it
    torch  safetensors  onnx  gguf      families that are read and written
    npz  hdf5  flax
    tensorflow  tfjs  tflite            families that are read
    openvino  coreml  paddle  mxnet
    caffe  ctranslate2
    diffusers  archive                  folders and archives with checkpoints of other formats in them
"""
