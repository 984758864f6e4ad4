"""Output that cannot show a letter gets a stand-in for it, and no UnicodeEncodeError: +- for ±, \\xfc for ü."""

import codecs
import io
import sys

_STAND_INS = {
    "\N{PLUS-MINUS SIGN}": "+-",
    "\N{MULTIPLICATION SIGN}": "x",
    "\N{MINUS SIGN}": "-",
    "\N{GREATER-THAN OR EQUAL TO}": ">=",
    "\N{RIGHTWARDS ARROW}": "->",
    "\N{DAGGER}": "*",
}
_NAME = "pyro_vae.stand_ins"


def show_anywhere() -> None:
    """Lets any terminal, file or pipe show what this process prints. Files that it writes stay UTF-8."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_NAME)


def _stand_in(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    sign = error.object[error.start]
    return _STAND_INS.get(sign) or sign.encode("ascii", "backslashreplace").decode(), error.start + 1


codecs.register_error(_NAME, _stand_in)
