"""Other frameworks' names and layouts of a network's tensors, translated to those of torch's modules.

A tensor's name does not say what kind of module it belongs to, so each dialect's docstring lists the layers that come
out wrong. Begin with `change`; `edits.translate` lists the dialects.

    change                              what is done to one tensor, and the edits that do it to all
    by_names                            dialects that names alone show
    attention  recurrent                what frameworks do to heads and to gates
    flax  flax_cells                    Flax's modules, and its recurrent cells
    flax_general  flax_scanned          …kernels with several dimensions of outputs; layers in a scan
    keras  keras_config                 Keras' layers, and what its configuration says about them
    keras_recurrent  numbered           its recurrent layers; the numbered variables of Keras 3
    keras_quantized  keras_layers       its quantized weights; layers with what the configuration says of them
    keras_expected  keras_variables     the tensors that its configuration asks for; the variables of its layers
    keras_readings  keras_einsum        …how a quantized layer can be read; the kernels of EinsumDense
    gguf  to_gguf  to_mmproj            llama.cpp's names to those of transformers' classes, and back
    gguf_table  gguf_config             …what is known of its architectures; what a configuration says
    gguf_cuts  gguf_delta               …tensors that it has in pieces, or in another order
    gguf_projectors                     …its files for pictures and sounds
    ldm  to_ldm                         single files of diffusion models to diffusers' names, and back
    latent  latent_back                 …their UNet, ControlNet and VAE
    released  mmdit  dit                …their transformers, by tables, with two streams and with one; Wan's VAE
    openclip                            …their text encoders
    meta  mlx  whisper                  Llama's and Mistral's own releases; mlx-lm's models; Whisper's own release
"""
