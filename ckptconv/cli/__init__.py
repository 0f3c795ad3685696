"""The command line: options in, one call of the library, text or JSON out. Only this room prints or exits.

Begin with `main`; a command is one small module.

    main  groups  sections              finding the command, its help, and every way to end
    options  completion                 options that several have; what Tab offers
    output  progress  trouble           what reaches the terminal: results, a bar, errors
    each                                a question that is asked of several files
    inspect  convert  diff  validate    the commands
    verify  arch  formats
    edits                               options of `convert` that change tensors
    text                                results as lines of text, a module for each command
    report                              ``diff --html``
"""
