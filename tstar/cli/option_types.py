"""Types of options that several commands have."""

import argparse


def names(text: str) -> list[str]:
    """ "a,b" as ["a", "b"]."""
    return [name.strip() for name in text.split(",") if name.strip()]


def numbers(text: str) -> list[int]:
    """ "1,128" as [1, 128]."""
    parts = text.split(",")
    if not all(part.strip().isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(f"must be like 128 or 1,128, got {text!r}")
    return [int(part) for part in parts]
