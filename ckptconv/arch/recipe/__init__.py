"""What a sequential network computes: read from a spec, bound to params, built as a torch module or an ONNX graph.

table = ckptconv.arch.table.expand(spec, params)     # names and shapes
run = program(table)                                 # what is computed, in order
module = build_module(run)                           # a torch module with exactly those names
model, findings = build_graph(run, infos)            # an ONNX model whose initializers are still empty

tree  notation         how a spec says it, and reading that
catalog  program       which operations there are; those of one network, with their shapes
module                 a torch module of them
graph  nodes  pooling  an ONNX graph of them; its nodes; windows at the edge as torch has them
"""
