"""Architectures as data: what a checkpoint must hold, and which architecture one holds.

A *spec* (TOML, see `parse` for the format and `expressions` for its formulas) names the tensors of a family of models
and gives their shapes in named *params*. Nothing here reads a tensor's bytes, runs code from a file, or needs a
framework.

    spec = load_spec("mlp")                            # a library name, or a path to a .toml file
    library()                                          # names and summaries of what ships with ckptconv
    choice = choose(tensors, statements=…, config=…, note=…)        # which library spec, and by what evidence

    sources = [from_settings(spec, ["layers=12"]),     # strongest first: --set, arch note, metadata, config.json
               from_metadata(spec, checkpoint.metadata), from_config(spec, config)]
    solution = solve(spec, tensors, sources)           # params, where each is from, conflicts
    findings = [*solution.findings, *check(solution.table, tensors)]    # valid: none is of severity "error"

    table = expand(spec, {"layers": 12, …})            # every expected tensor: shape, optional, tie, element types
    text = infer([tensors_a, tensors_b])               # a new spec from checkpoints of one family

`tensors` is a mapping of names to `TensorInfo`, as in ``{name: tensor.info for name, tensor in checkpoint.items()}``.
A spec's `digest` says which version of it was used.

The modules, in the order in which one thing needs another; nothing is imported here, since most conversions ask for
none of it:

    tree  operations  expressions       formulas: their tree, what they compute, their text
    evaluate  polynomial                …evaluated within bounds; with params that are not known yet
    lines  rows  spec  template         a TOML document row by row; a spec as data; names with placeholders
    parse  configs  mount  closure      reading a spec, what it mounts, and whether all of it has a meaning
    load                                finding specs, those of the library among them
    scope  table  check                 params that are known; the table that they make; checking against it
    bind  statements                    what is said of params outside of the tensors
    match  indices  switches            names before any param is known: their layers, their variant
    votes  equations  solver            params from the tensors
    shortlist  rating  choose           which spec a checkpoint is of
    folding  naming  infer              a new spec from checkpoints
    recipe                              what a network computes from one input
    samples  weights  export            what goes into a network; its state_dict; its graph by torch's exporter
    arguments  factory                  Python that the user vouches for
    huggingface  diffusers              classes of transformers and of diffusers
"""
