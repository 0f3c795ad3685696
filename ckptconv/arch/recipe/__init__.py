"""What a network computes from one input: read from a spec, bound to params, built as a torch module or an ONNX graph.

table = ckptconv.arch.table.expand(spec, params)     # names and shapes
program = expand_recipe(table)                       # what is computed, in order
module = build_module(program)                       # a torch module with exactly those names
model, findings = build_graph(program, infos)        # an ONNX model whose initializers are still empty

tree  notation         a recipe, and reading it from a spec
catalog  joins         the operations that exist, with their attributes and shapes; those that take several branches
expand  program        from a recipe to the operations of one network
module  tokens         the torch module; how it runs attention and tensors that belong to no layer
graph  nodes  pooling  the ONNX graph; its nodes; pooling windows at edges, as torch computes them
attending              the ONNX nodes of attention and of tensors that belong to no layer
"""
