"""Archives of torch's with a program beside the weights. The weights are read, the program stays behind.

Begin with `script`, TorchScript's.

    script  script_classes  TorchScript; which attributes its classes say are parameters
    export  payloads        torch.export; the JSON that says what lies where
    graph_code              …and what torch would run of the graph's JSON
"""
