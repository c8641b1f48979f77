"""``python -m jetpay_async._cli``, where the ``jetpay`` script is not on the path."""

import sys

from jetpay_async._cli import main

sys.exit(main())
