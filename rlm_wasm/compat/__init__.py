"""Doors for programs written against other systems: their constructors, methods and results, over this runtime.

One module for each system (`rlm`, `pyrlm`, `fast_rlm`, `azure`).
An argument is honoured, or refused with the reason; none is ignored.
"""
