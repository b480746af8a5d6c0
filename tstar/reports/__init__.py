"""Numbers to pages: the report of a run."""
