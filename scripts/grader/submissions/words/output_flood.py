"""Prints without end."""

while True:
    print("to be or not to be " * 50)
