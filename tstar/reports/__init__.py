"""Numbers to pages: the report of a run, the report of several runs."""
