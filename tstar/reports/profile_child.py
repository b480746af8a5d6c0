"""The program that measures one case: asks to end with the command before it imports anything that takes long.

    python -m tstar.reports.profile_child measure CASE

Left alone it would disturb what is measured next.
"""

import os
import sys

from tstar.reports.parent_process import PARENT, stop_with_parent

if __name__ == "__main__":
    if os.environ.get(PARENT) not in (None, str(os.getppid())):
        sys.exit("the command that wanted this measured is gone")
    stop_with_parent()
    from tstar.reports.profile_case import main

    sys.exit(main(sys.argv[1:]))
