"""File formats: what a format is, the registry that picks one, and one package for each family.

Begin with `base`, which says what a format is, and with `npz`, the smallest family that is both read and written.

    base  options                       what a format is; its own options (``-O``)
    registry  detect                    which formats there are; which one a file or folder is in
    lookalikes                          files in no format that is read: what they are, and what to do instead
    part_files                          weight files that are useless without the index or graph beside them
    targets                             what a target cannot hold of a checkpoint, and what it will hold
    sets                                several files that form one checkpoint
    sentence_transformers               the list of modules in a sentence-transformers folder
    trees  tensors  graphs              what several families share: trees of values, tensor headers, graphs
    code                                code in places where only data is expected: chat templates, Keras layers
    beside                              the other files of a model's folder, and what loading the folder would run
    torch  safetensors  onnx  gguf      families that are read and written
    npz  hdf5  flax
    tensorflow  tfjs  tflite            families that are only read
    openvino  coreml  paddle  mxnet
    caffe  ctranslate2  mindspore
    darknet  mlc  ncnn
    diffusers  archive                  folders and archives that contain checkpoints in other formats
"""
