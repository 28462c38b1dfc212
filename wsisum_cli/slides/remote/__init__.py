"""Files in object stores and on web servers. Addresses go in; bytes, listings and staged copies come out.

Everything above works with files on disk: a remote slide is staged before it is opened.
"""
