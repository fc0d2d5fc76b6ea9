"""One verdict on a machine's GPU, in ten minutes: ``scripts/gpu_check.sh``, and docs/gpu.md on how to read it.

__main__.py    the command line; what it prints and its exit status
schedule.py    which part runs when, for how long, and what a failure costs
worker.py      the process that does the parts, one after the other
report.py      rows, goals, the JSON file
table.py       that file as a table, on the screen and in Markdown
wheels.py      what to bring to a machine that reaches no index
parts/         one file a part: from conditions to rows
"""
