"""torch archives that hold a program beside the weights. The weights are read, the program stays behind.

Begin with `script`, for TorchScript.

    script  script_classes  TorchScript; which attributes are parameters, by its class definitions
    export  payloads        torch.export; the JSON that says where each tensor is
    graph_code              …and the code in the graph's JSON that torch would run
"""
