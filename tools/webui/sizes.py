"""Sizes of files in words that every language shares."""


def size_words(count: float) -> str:
    """Bytes for people, as hubs and shops count them: "2.3 GB", "378 MB", "687 B"."""
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= unit:
            return f"{count / unit:.1f} {name}" if count < 10 * unit else f"{count / unit:.0f} {name}"
    return f"{count:.0f} B"


def part_words(done: float, total: float) -> str:
    """How much of how much, in one unit: "0.4 / 2.3 GB"."""
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if total >= unit:
            return f"{done / unit:.1f} / {total / unit:.1f} {name}"
    return f"{done:.0f} / {total:.0f} B"
