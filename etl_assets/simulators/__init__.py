"""The sources, with fault knobs: for the demo, the tests and load.

An API is an object with an `app`: `server.serve` puts it on a port, `faults.Faults` makes it fail on plan. Files are written by
a function that tells which faults it planted. Only the command line and tests import this package.
"""
