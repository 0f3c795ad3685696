"""Names and layouts that other frameworks have for a network's tensors, as torch's modules have them.

What a module is, names do not say, so that each dialect tells which layers come out wrong. Begin with `change`; which
dialects there are, `edits.translate` says.

    change                              what is asked of one tensor, and the edits that do it to all
    attention  recurrent                what frameworks do to heads and to gates
    flax  flax_cells                    Flax's modules
    keras  keras_config                 Keras' layers, and what its configuration says of them
    keras_recurrent  numbered
    gguf  to_gguf  to_mmproj            llama.cpp's names as transformers' classes, and the other way
    gguf_table  gguf_config             …what is known of its architectures; what a configuration says
    gguf_cuts  gguf_delta               …tensors that it has in pieces, or in another order
    gguf_projectors                     …of its files for pictures and sounds
    ldm  to_ldm                         single files of diffusion models with diffusers' names, and the other way
    latent  latent_back                 …their UNet, ControlNet and VAE
    released  mmdit  dit                …their transformers, of two streams and of one; Wan's VAE
    openclip                            …their text encoders
    meta  mlx  whisper                  Llama's and Mistral's own releases; mlx-lm's models; Whisper's own release
"""
