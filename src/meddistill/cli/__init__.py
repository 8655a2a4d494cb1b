"""The command line: one thin file a verb, each a call of :mod:`meddistill.api`.

Nothing heavy is imported before a verb runs, so that ``meddistill --help`` answers at once.
"""
