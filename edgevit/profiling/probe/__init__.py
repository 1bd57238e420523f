"""What runs on a device: stand-alone, one runtime and numpy beside Python's own library, Python 3.8 on.

It is packed into one file (`edgevit.profiling.packed`), which every device runs in a process of its own, this
machine included: the process holds the runtime and the model alone, so its peak memory is what a device
would spend, and the cold load is cold.

One line of JSON on standard input says what to measure. Each finding leaves at once as a line of JSON on
standard output, so that whatever ends the run ends only what had not been said: an object whose key
``event`` is ``machine``, ``loaded``, ``first``, ``warm_up``, ``samples``, ``measured``, ``second``,
``operators``, ``end``, or ``refused``.
"""
