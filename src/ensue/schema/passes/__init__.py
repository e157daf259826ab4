"""The passes of `freeze`, one file each, in the order: reach, names, links, collections, fields, transforms, effects,
cycles.

Each adds to a `Build` and reports all that is wrong there; a pass that depends on something broken stays silent about
it.
"""
