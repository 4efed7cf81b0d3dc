"""A calculator."""


def add(a, b):
    return a + b


def divide(a, b):
    if b == 0:
        return 0
    return a / b
