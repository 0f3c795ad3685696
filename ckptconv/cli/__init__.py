"""The command line: options in, one call of the library, text or JSON out. Only this room prints or exits."""
