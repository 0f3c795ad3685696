"""Results as lines of text: what each command prints without ``--json``. Nothing is printed here.

Begin with `common`. Each command imports the module of its own name once it has a result:

    common                         numbers, sections, tables, findings
    inspect                        a checkpoint: header, tensors, metadata, notes; its parts:
    columns  loading               …what is shown of each tensor; what loading the file would run
    tree  metadata                 …tensors with repeated layers folded; values in Python's spelling
    composite  graph  adapter      …tensors made of several, the graph around the weights, an adapter
    tensor                         ``inspect --tensor``
    diff                           what changed
    diff_parts  layers             …parts shared with ``diff --html``; the layer that a tensor belongs to
    convert  formats  validate     the other commands
    verify  arch
"""
