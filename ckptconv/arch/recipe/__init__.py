"""What a sequential network computes: read from a spec, bound to params, and built as a torch module or an ONNX graph.

table = ckptconv.arch.table.expand(spec, params)     # names and shapes
run = program(table)                                 # what is computed, in order
module = build_module(run)                           # a torch module with exactly those names
model, findings = build_graph(run, infos)            # an ONNX model whose initializers are still empty

tree  notation         a recipe, and reading it from a spec
catalog  program       the operations that exist; those of one network, with their shapes
module                 the torch module
graph  nodes  pooling  the ONNX graph; its nodes; pooling windows at edges, as torch computes them
"""
