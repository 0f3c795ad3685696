"""Results as lines of text for people: what each command prints without ``--json``. Nothing is printed here.

Begin with `common`. A command imports the module of its own name, once it has something to say:

    common                         numbers, sections, tables, findings
    inspect                        a checkpoint: header, tensors, metadata, bookkeeping; in it:
    tree  metadata                 …its tensors, repeated layers folded; values as Python spells them
    composite  graph  adapter      …tensors made of several, the graph around the weights, an adapter
    tensor                         ``inspect --tensor``
    diff                           what changed
    diff_parts  layers             …what ``diff --html`` says alike; which layer a tensor is of
    convert  formats  validate     the other commands
    verify  arch
"""
