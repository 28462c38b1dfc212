"""Exports: a summary in the formats of other programs.

A summary goes in. Files come out, each of which says that it is not the slide but a selection of its patches. There is
one room for each format; `targets` lists them.
"""
