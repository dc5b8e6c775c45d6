"""What strangers wrote, on its way to a terminal."""


def printable(text: str) -> str:
    """Return text without control sequences: names and reasons may come from anybody. Lines stay lines."""
    return "".join(char if char.isprintable() or char == "\n" else "�" for char in text)


def one_line(text: str) -> str:
    """Return text for one line of a log: what would begin another line or colour a terminal is escaped."""
    return text if text.isprintable() else text.encode("unicode_escape").decode()
