"""The sources as real HTTP servers with fault knobs: for the demo, the tests and load.

Each simulator is an object with an `app`; `server.serve` puts it on a port, `faults.Faults` makes it fail on plan. Only
the command line and tests import this package.
"""
