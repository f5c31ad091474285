"""How fast nsbox is, against what the kernel and bubblewrap need for the same.

measure     blocks in turn, medians, reports
peers       the bare process, and bubblewrap
latency     fresh, paused, living: one program at a time
throughput  eight sandboxes at a time
deadline    how late a kill is
stream      a gigabyte of output
scale       two hundred living sandboxes
warm        Python programs, from a warm interpreter
humaneval   164 programs graded, each in a sandbox of its own
__main__    the command
"""
