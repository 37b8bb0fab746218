# SPDX-License-Identifier: MIT OR Apache-2.0
"""Cases in KTAP: functions whose names start with `case_`, in the order in which they stand. A case gets an ExitStack for what is to be undone."""

import contextlib
import sys
import time
import traceback


def run(module):
    cases = [(name, f) for name, f in vars(module).items() if name.startswith("case_")]
    print("KTAP version 1")
    print(f"1..{len(cases)}")
    failed = 0
    for number, (name, case) in enumerate(cases, 1):
        result = "ok"
        try:
            with contextlib.ExitStack() as stack:
                case(stack)
        except Exception as error:
            traceback.print_exc(file=sys.stdout)
            # What its frames hold is to go.
            traceback.clear_frames(error.__traceback__)
            result = "not ok"
            failed += 1
        print(result, number, name.removeprefix("case_"), flush=True)
    return failed > 0


@contextlib.contextmanager
def raises(kind, text="", errno=None):
    try:
        yield
    except kind as error:
        assert text in str(error), f"{error!r} does not say {text!r}"
        assert errno is None or error.errno == errno, f"{error!r} is not errno {errno}"
    else:
        raise AssertionError(f"no {kind.__name__}")


def until(condition, seconds=20):
    """Waits for what `condition` returns to be true."""
    end = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.01)
    return result
