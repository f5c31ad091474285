"""Contexts: what a long-lived program in a sandbox, which runs one cell after the other, is told and says.

::

    languages      which there are, how each is started and spoken to
    frames         what comes up: hostile, and parsed with bounds
    python_agent   the text that runs in the sandbox; nothing of nsbox can be imported there
    node_agent.js, bash_agent.sh   the same for the other languages
"""
