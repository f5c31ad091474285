"""What a sandbox uses: counters read, thresholds judged, and when.

::

    counters     the cgroup files of one sandbox, opened once and read by pread
    programs     what cgroups do not tell, by psutil
    reading      one look at everything, and the CPU time between two
    thresholds   from the level of before and a number to a crossing, pure
    ticker       one task of the trio run that looks at all sandboxes in turn
    pressure     a sandbox at its memory limit that is not to be killed
    reclaim      memory given back
"""
