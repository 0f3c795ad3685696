"""The command line: options in, one call of the library, text or JSON out. Only this package prints or exits.

Begin with `main`. Each command is one small module.

    main  groups  sections              finds the command, shows help, turns every way to end into an exit code
    options  completion                 options that several commands share; what Tab offers
    output  progress  trouble           what reaches the terminal: results, a progress bar, errors
    each                                runs a command on each of several files
    inspect  convert  diff  validate    the commands
    verify  arch  formats
    edits                               the options of `convert` that change tensors
    text                                results as lines of text, a module for each command
    report                              ``diff --html``
"""
