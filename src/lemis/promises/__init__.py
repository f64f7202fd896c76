"""What every plug-in promises, as functions that try it: the name of each is the promise, its docstring says what is
asked and what to do where it is not kept. ``tests/contracts`` holds our own files to them, ``lemis check-method`` a
module outside the package.
"""
