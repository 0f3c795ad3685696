"""The command line: options in, one call of the library, text or JSON out. Only this room prints or exits.

Begin with `main`; a command is one small module.

    main  groups  sections              finding the command, its help, and every way to end
    options  completion                 options that several have; what Tab offers
    output  progress  trouble           what reaches the terminal: results, a bar, errors
    each                                a question that is asked of several files
    inspect  convert  diff  validate    the commands
    verify  arch  formats
    edits                               options of `convert` that change tensors
    render                              results as text; of each command:
    render_inspect  render_tree         …`inspect`
    render_tensor  render_metadata
    render_composite  render_graph
    render_adapter
    render_diff  diff_parts  layers     …`diff`, and what its page says alike
    report                              ``diff --html``
    render_validate  render_verify      …the others
    render_arch
"""
