"""`python -m rlm_wasm`: the same as `rlm-wasm`."""

import sys

from rlm_wasm.cli import main

sys.exit(main())
