"""What holds for every test, whoever starts them."""

import os
import signal

# A GPU's kernels run in an interpreter. Triton asks for this when it is first imported, which bitsandbytes does, too.
os.environ["TRITON_INTERPRET"] = "1"

# A job that a shell starts in the background ignores ctrl+c, and hands that on to its children: the program rightly
# keeps ignoring it. The tests send signals, so their children must start with the usual handling.
for _number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    if signal.getsignal(_number) == signal.SIG_IGN:
        signal.signal(_number, signal.default_int_handler if _number == signal.SIGINT else signal.SIG_DFL)
