"""What goes wrong with plug-ins: one that raises when it is looked at, and one that is no format at all."""

NUMBER = 3


def __getattr__(name: str) -> object:
    raise ZeroDivisionError(f"{name} is broken on purpose")
