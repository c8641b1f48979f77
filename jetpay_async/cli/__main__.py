"""``python -m jetpay_async.cli``, where the ``jetpay`` script is not on the path."""

import sys

from jetpay_async.cli import main

sys.exit(main())
